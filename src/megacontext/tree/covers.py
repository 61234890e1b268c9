"""The coarsest ways to tile a token range with complete nodes, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator

from megacontext.errors import InvalidValueError
from megacontext.tree.geometry import Node, TreeGeometry

__all__ = ["coarsest_cover", "cover_cost", "smallest_budget"]


def coarsest_cover(tree: TreeGeometry, start: int, stop: int) -> Iterator[Node]:
    """The fewest complete nodes that tile ``[start, stop)``, in order; level-0 nodes are single tokens.

    Greedy from the left: at each position the highest level that is aligned there and fits is optimal, because node
    widths divide one another.
    """
    if not 0 <= start <= stop:
        raise InvalidValueError(f"span [{start}, {stop}) is not a range of token positions; start <= stop, both >= 0")
    position = start
    level = 0
    while position < stop:
        while position % tree.width(level + 1) == 0 and position + tree.width(level + 1) <= stop:
            level += 1
        while position % tree.width(level) or position + tree.width(level) > stop:
            level -= 1
        yield tree.node_at(level, position)
        position += tree.width(level)


def cover_cost(tree: TreeGeometry, start: int, stop: int, gist_width: int) -> int:
    """Entries that the coarsest cover costs: ``gist_width`` per gist, 1 per raw token."""
    return sum(gist_width if node.level else 1 for node in coarsest_cover(tree, start, stop))


def smallest_budget(tree: TreeGeometry, num_tokens: int, gist_width: int = 1) -> int:
    """The smallest ``budget_entries`` that can hold a history of ``num_tokens`` (invariant 3)."""
    return cover_cost(tree, 0, num_tokens, gist_width)
