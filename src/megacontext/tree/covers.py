"""The coarsest ways to tile a token range with complete nodes, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator

from megacontext.errors import InvalidValueError
from megacontext.tree.geometry import Node, TreeGeometry

__all__ = ["coarsest_cover", "cover_cost", "smallest_budget"]


def coarsest_cover(tree: TreeGeometry, start: int, stop: int) -> Iterator[Node]:
    """The fewest complete nodes that tile ``[start, stop)``, in order; level-0 nodes are single tokens."""
    for level, first, end in _runs(tree, start, stop):
        for index in range(first, end):
            yield Node(level, index)


def cover_cost(tree: TreeGeometry, start: int, stop: int, gist_width: int) -> int:
    """Entries that the coarsest cover costs: ``gist_width`` per gist, 1 per raw token. O(levels)."""
    return sum((gist_width if level else 1) * (end - first) for level, first, end in _runs(tree, start, stop))


def smallest_budget(tree: TreeGeometry, num_tokens: int, gist_width: int = 1) -> int:
    """The smallest ``budget_entries`` that can hold a history of ``num_tokens`` (invariant 3). O(levels)."""
    return cover_cost(tree, 0, num_tokens, gist_width)


def _runs(tree: TreeGeometry, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The cover as runs ``(level, first index, end index)`` of nodes of one level: up, then down.

    At each position the highest level that is aligned there and fits is best, because node widths divide one another;
    so levels first rise, one boundary at a time, and then fall.
    """
    if not 0 <= start <= stop:
        raise InvalidValueError(f"span [{start}, {stop}) is not a range of token positions; start <= stop, both >= 0")
    branching = tree.block_tokens
    level, position, limit = 0, start, stop  # both in nodes of ``level``
    falling: list[tuple[int, int, int]] = []
    while position < limit:
        boundary = min(-(-position // branching) * branching, limit)
        if boundary > position:
            yield level, position, boundary
        whole = limit // branching * branching
        if whole < limit and max(whole, boundary) < limit:
            falling.append((level, max(whole, boundary), limit))
        level, position, limit = level + 1, -(-position // branching), limit // branching
    yield from reversed(falling)
