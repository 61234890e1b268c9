"""Where the rows of a window stand: three ways to number them.

``window``: 0, 1, 2 ... in window order, for any base. ``timeline``: tokens one apart and gists a few positions wide,
for a base that learned gists on it. ``global``: true token positions, for histories within the base's range.

Shape legend: W rows of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from megacontext.tree.timeline import GIST_EXTENT, timeline

__all__ = ["LEAD", "POSITION_MODES", "SCRATCH", "Placement", "PositionMode", "RowNumbering", "place_rows"]

RowNumbering = Literal["window", "global", "timeline"]
PositionMode = Literal["auto", "window", "global", "timeline"]
POSITION_MODES: tuple[PositionMode, ...] = ("auto", "global", "timeline", "window")
SCRATCH = -1  # the level of a row after the history that is no part of the memory
LEAD = -2  # the level of one before it


@dataclass(frozen=True)
class Placement:
    """positions_W: float64; extents_W: how many positions each row takes; next_position: where the next token stands.

    Global positions are those of a gist's node; the offsets of its vectors are added by who reads them.
    """

    positions_W: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    extents_W: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    next_position: float


def place_rows(
    keys_W3: npt.NDArray[np.int64],
    *,
    numbering: RowNumbering,
    block_tokens: int,
    gist_width: int,
    num_tokens: int,
    gist_extent: float = GIST_EXTENT,
) -> Placement:
    """Places of all rows; keys as in ``WindowRows``. ``num_tokens``: of the history, behind which the scratch begins
    when positions are global; ``gist_extent``: how many positions a row of a gist takes at most on a timeline."""
    levels_W = keys_W3[:, 0]
    if numbering == "window":
        positions_W = np.arange(len(keys_W3), dtype=np.float64)
        return Placement(positions_W, np.ones(len(positions_W)), float(len(keys_W3)))
    widths_W = np.where(levels_W > 0, np.power(float(block_tokens), np.maximum(levels_W, 0)) / gist_width, 1.0)
    if numbering == "timeline":
        positions_W, extents_W = timeline(widths_W, gist_extent=gist_extent)
        return Placement(positions_W, extents_W, float(extents_W.sum()))
    is_scratch_W, is_lead_W = levels_W == SCRATCH, levels_W == LEAD
    num_lead, num_scratch = np.count_nonzero(is_lead_W), np.count_nonzero(is_scratch_W)
    positions_W = num_lead + keys_W3[:, 1].astype(np.float64)
    positions_W[is_lead_W] = np.arange(num_lead)
    positions_W[is_scratch_W] = num_lead + num_tokens + np.arange(num_scratch)
    return Placement(positions_W, widths_W, float(num_lead + num_tokens + num_scratch))
