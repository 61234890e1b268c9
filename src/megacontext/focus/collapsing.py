"""Making room: complete sibling sets become their parent, those whose detail is worth least first; and closing what
cannot be shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.ports.focus import AllocatorConfig
from megacontext.tree.cuts import Cut, concatenate_cuts, cut_cost, node_widths
from megacontext.tree.geometry import TreeGeometry

__all__ = ["close_rows", "collapse_set", "make_room", "sibling_sets"]

GIST_VALUE = AllocatorConfig.gist_value


def sibling_sets(
    tree: TreeGeometry, cut: Cut, keep: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First and end rows of every set that may collapse: a whole raw block, or K siblings; none of it in ``keep``."""
    size = tree.block_tokens
    widths = cut.stops - cut.starts
    blocks = np.flatnonzero((cut.levels == 0) & (widths == size) & ~keep)
    if len(cut) < size:
        return blocks, blocks + 1
    last = slice(size - 1, None)
    first = slice(0, len(cut) - size + 1)
    kept = np.concatenate(([0], np.cumsum(keep)))
    # rows between two of one level, that many apart, can only be of that level too
    complete = (
        (cut.levels[first] > 0)
        & (cut.levels[last] == cut.levels[first])
        & (cut.starts[first] % (widths[first] * size) == 0)
        & (cut.stops[last] - cut.starts[first] == widths[first] * size)
        & (kept[size:] == kept[:-size])
    )
    sets = np.flatnonzero(complete)
    return np.concatenate((blocks, sets)), np.concatenate((blocks + 1, sets + size))


def make_room(
    tree: TreeGeometry,
    cut: Cut,
    *,
    budget_entries: int,
    gist_width: int,
    densities: npt.NDArray[np.float64],
    keep: npt.NDArray[np.bool_],
) -> Cut:
    """Collapse until the cut fits, or nothing more may collapse.

    Least utility lost per window position saved goes first; among equals the oldest. densities: utility per token of
    each row; keep: rows that stay.
    """
    excess = cut_cost(cut, gist_width) - budget_entries
    while excess > 0:
        firsts, ends = sibling_sets(tree, cut, keep)
        if not len(firsts):
            return cut
        cumulative = np.concatenate(([0.0], np.cumsum(densities * (cut.stops - cut.starts))))
        worth = np.maximum(cumulative[ends] - cumulative[firsts], 0.0)
        savings = np.where(cut.levels[firsts] > 0, (ends - firsts) * gist_width, tree.block_tokens) - gist_width
        rates = worth * GIST_VALUE ** cut.levels[firsts] / savings
        order = np.lexsort((cut.starts[firsts], rates))
        num_sets = int(np.searchsorted(np.cumsum(savings[order]), excess)) + 1
        chosen = np.sort(order[:num_sets])
        excess -= int(savings[chosen].sum())
        cut, densities, keep = _collapse(cut, firsts[chosen], ends[chosen], densities, worth[chosen], keep)
    return cut


def _collapse(
    cut: Cut,
    firsts: npt.NDArray[np.intp],
    ends: npt.NDArray[np.intp],
    densities: npt.NDArray[np.float64],
    worth: npt.NDArray[np.float64],
    keep: npt.NDArray[np.bool_],
) -> tuple[Cut, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    levels, stops, densities = cut.levels.copy(), cut.stops.copy(), densities.copy()
    levels[firsts] += 1
    stops[firsts] = cut.stops[ends - 1]
    densities[firsts] = worth / (stops[firsts] - cut.starts[firsts])
    depth = np.zeros(len(cut) + 1, dtype=np.int64)
    depth[firsts + 1] += 1
    depth[ends] -= 1
    remains = np.cumsum(depth[:-1]) == 0
    return Cut(levels, cut.starts, stops)[remains], densities[remains], keep[remains]


def collapse_set(tree: TreeGeometry, cut: Cut, siblings: range, *, keep: npt.NDArray[np.bool_]) -> Cut:
    """The parent in place of one complete set of siblings; InvalidValueError if the rows are not one."""
    rows = slice(siblings.start, siblings.stop)
    if not 0 <= siblings.start < siblings.stop <= len(cut) or siblings.step != 1:
        raise InvalidValueError(f"{siblings} are not entries of the working context, which has {len(cut)}")
    if keep[rows].any():
        raise InvalidValueError(f"entries {siblings.start} to {siblings.stop - 1} hold pinned tokens; unpin them first")
    firsts, ends = sibling_sets(tree, cut, keep)
    chosen = np.flatnonzero((firsts == siblings.start) & (ends == siblings.stop))
    if not len(chosen):
        raise InvalidValueError(
            f"entries {siblings.start} to {siblings.stop - 1}, tokens [{cut.starts[siblings.start]}, "
            f"{cut.stops[siblings.stop - 1]}), are not a complete set of siblings; collapse one whole raw block, or "
            f"{tree.block_tokens} aligned entries of one level"
        )
    unscored = np.zeros(len(cut))
    return _collapse(cut, firsts[chosen], ends[chosen], unscored, np.zeros(1), keep)[0]


def close_rows(
    tree: TreeGeometry, cut: Cut, chosen: npt.NDArray[np.bool_], *, keep: npt.NDArray[np.bool_]
) -> Cut | None:
    """The cut with the node above each chosen row in its place, and in that of its siblings, however fine they are
    shown; None if a row that stays (``keep``) or the end of the history stands in the way."""
    levels = cut.levels[chosen] + 1
    widths = node_widths(tree, levels)
    starts = cut.starts[chosen] // widths * widths
    nodes = {*zip(starts.tolist(), (starts + widths).tolist(), levels.tolist(), strict=True)}
    pieces: list[Cut] = []
    done = reached = 0  # rows and tokens that are dealt with
    for start, stop, level in sorted(nodes, key=lambda node: (node[0], -node[1])):
        if start < reached:
            continue  # below a node that is closed already
        first, end = (int(row) for row in np.searchsorted(cut.starts, [start, stop]))
        if stop > cut.stops[-1] or keep[first:end].any():
            return None
        pieces += [cut[done:first], Cut.of([(level, start, stop)])]
        done, reached = end, stop
    return concatenate_cuts([*pieces, cut[done:]])
