"""What the next refocus is likely to open: a guess for those who fetch ahead, worth little more than it costs.

Detail moves in small steps: to the neighbours of what is open, as reading goes on there, and to what the lens valued
next best and had no room for.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from megacontext.tree.cuts import Cut, concatenate_cuts
from megacontext.tree.geometry import TreeGeometry

__all__ = ["likely_next"]


def likely_next(tree: TreeGeometry, cut: Cut, utility: npt.NDArray[np.float64], *, limit: int) -> Cut:
    """At most ``limit`` rows that are not in the cut, in no order: raw blocks, and nodes above them.

    utility: float64 [n], what the last lens pass gave to each row. A collapsed block stands for its tokens, a higher
    node for its children.
    """
    closed = np.flatnonzero(cut.levels > 0)
    closed = closed[np.argsort(-utility[closed], kind="stable")]
    is_open = np.concatenate(([False], cut.levels == 0, [False]))  # of row i at place i + 1
    beside = closed[is_open[closed] | is_open[closed + 2]][: max(1, limit // 2)]
    valued = closed[utility[closed] > 0][:limit]
    rows = cut[np.array(list(dict.fromkeys([*beside.tolist(), *valued.tolist()])), dtype=np.int64)]
    return concatenate_cuts([_children(tree, rows[run]) for run in _runs_of_level(rows.levels)])[:limit]


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
