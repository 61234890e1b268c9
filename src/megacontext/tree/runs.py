"""Scattered positions as stretches, which are read at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["runs_of"]


def runs_of(ascending: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending, distinct positions as maximal runs ``[start, stop)``: ``[3, 4, 5, 9]`` -> ``[(3, 6), (9, 10)]``."""
    if not len(ascending):
        return []
    breaks = np.flatnonzero(np.diff(ascending) != 1) + 1
    starts = ascending[np.concatenate([[0], breaks])]
    stops = ascending[np.concatenate([breaks - 1, [len(ascending) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
