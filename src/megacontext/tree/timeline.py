"""Positions in a window that stands for far more than it shows: tokens one apart, far spans squeezed.

A model knows the positions it was trained with, a few thousand; a memory has millions. On this timeline a raw token
takes one position, and a row of a gist as many as its share of the span is wide, but no more than ``GIST_EXTENT``:
order and neighbourhood are kept, an opened block has the spacing of plain text, and a window of a thousand entries ends
within the trained range however long the history is. A window of raw tokens alone is numbered 0, 1, 2 ...

Shape legend: W rows of a window.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["GIST_EXTENT", "timeline", "window_gist_extent"]

GIST_EXTENT = 4.0
GIST_SHARE = 1 / 3  # of a window's rows, which a window that keeps within the learned range may have


def window_gist_extent(capacity_entries: int, learned_positions: int) -> float:
    """The extent of gists in windows of this size: less than ``GIST_EXTENT`` where those would end behind what the
    model learned. One for a whole session, whatever the cut, so that a refocus moves only what stands behind it.

    >>> [round(window_gist_extent(entries, 2048), 6) for entries in (1024, 1536, 2048)]
    [4.0, 2.0, 1.0]
    """
    room = (
        (learned_positions / capacity_entries - 1) / GIST_SHARE
        if capacity_entries and learned_positions
        else GIST_EXTENT
    )
    return min(GIST_EXTENT, max(1.0, 1.0 + room))


def timeline(
    widths_W: npt.NDArray[np.floating | np.integer], *, gist_extent: float = GIST_EXTENT
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Positions [W] and extents [W] of rows that stand for ``widths_W`` tokens each.

    A row stands in the middle of its extent; raw tokens (width 1) stand on whole numbers while nothing before them is
    a gist.
    """
    extents_W = np.minimum(np.asarray(widths_W, dtype=np.float64), gist_extent)
    stops_W = np.cumsum(extents_W)
    return stops_W - extents_W / 2 - 0.5, extents_W
