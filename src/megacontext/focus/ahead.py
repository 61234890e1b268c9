"""What the next refocus is likely to show: a guess for those who fetch ahead, worth little more than it costs.

Detail moves in small steps: to the neighbours of what is open, as reading goes on there, and to what the lens valued
next best and had no room for. What closes for it shows the nodes above.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from megacontext.tree.cuts import Cut, concatenate_cuts, node_widths
from megacontext.tree.geometry import TreeGeometry

__all__ = ["likely_next"]

REACH_ROWS = 4  # how far beside what is open the next refocus may go: it opens a few blocks at once


def likely_next(tree: TreeGeometry, cut: Cut, utility: npt.NDArray[np.float64], *, limit: int) -> Cut:
    """Rows that are not in the cut, in no order: at most ``limit`` that may open, and the nodes above the cut's rows,
    one of each sibling set (stores keep siblings together).

    utility: float64 [n], what the last lens pass gave to each row. A collapsed block stands for its tokens, a higher
    node for its children.
    """
    closed = np.flatnonzero(cut.levels > 0)
    closed = closed[np.argsort(-utility[closed], kind="stable")]
    beside = closed[_near_open(cut)[closed]][: max(1, limit // 2)]
    valued = closed[utility[closed] > 0][:limit]
    rows = cut[np.array(list(dict.fromkeys([*beside.tolist(), *valued.tolist()])), dtype=np.int64)]
    opened = concatenate_cuts([_children(tree, rows[run]) for run in _runs_of_level(rows.levels)])[:limit]
    return concatenate_cuts([opened, _above(tree, cut)])


def _near_open(cut: Cut) -> npt.NDArray[np.bool_]:
    """Which rows have a raw one within reach."""
    is_open = cut.levels == 0
    near = np.zeros(len(cut), dtype=np.bool_)
    for distance in range(1, REACH_ROWS + 1):
        near[distance:] |= is_open[:-distance]
        near[:-distance] |= is_open[distance:]
    return near


def _above(tree: TreeGeometry, cut: Cut) -> Cut:
    """Complete nodes above the rows of a cut, the first that is met of each sibling set."""
    levels = cut.levels + 1
    widths = node_widths(tree, levels)
    starts = cut.starts // widths * widths
    whole = starts + widths <= (cut.stops[-1] if len(cut) else 0)
    levels, widths, starts = levels[whole], widths[whole], starts[whole]
    sets = np.stack([levels, starts // (widths * tree.block_tokens)])
    firsts = np.unique(sets, axis=1, return_index=True)[1]
    return Cut(levels[firsts], starts[firsts], (starts + widths)[firsts])


def _runs_of_level(levels: npt.NDArray[np.int64]) -> list[slice]:
    edges = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    return [slice(first, last) for first, last in pairwise(edges) if first < last]


def _children(tree: TreeGeometry, rows: Cut) -> Cut:
    """Those of several rows of one level, in their order; of level 1 their raw blocks."""
    level = int(rows.levels[0]) - 1
    if not level:
        return Cut(rows.levels - 1, rows.starts, rows.stops)
    width = tree.width(level)
    starts = (rows.starts[:, None] + width * np.arange(tree.block_tokens)).reshape(-1)
    return Cut(np.full_like(starts, level), starts, starts + width)
