"""Scattered positions as stretches, which are read at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["joined_spans", "runs_of"]


def runs_of(ascending: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending, distinct positions as maximal runs ``[start, stop)``: ``[3, 4, 5, 9]`` -> ``[(3, 6), (9, 10)]``."""
    if not len(ascending):
        return []
    breaks = np.flatnonzero(np.diff(ascending) != 1) + 1
    starts = ascending[np.concatenate([[0], breaks])]
    stops = ascending[np.concatenate([breaks - 1, [len(ascending) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def joined_spans(spans: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """Spans that follow one another as one stretch each, and of every span in which stretch it lies, from where to
    where: ``[(0, 4), (4, 6), (9, 10)]`` -> ``[(0, 6), (9, 10)]``, ``[(0, 0, 4), (0, 4, 6), (1, 0, 1)]``."""
    stretches: list[tuple[int, int]] = []
    within: list[tuple[int, int, int]] = []
    for start, stop in spans:
        if stretches and stretches[-1][1] == start:
            stretches[-1] = (stretches[-1][0], stop)
        else:
            stretches.append((start, stop))
        begin = stretches[-1][0]
        within.append((len(stretches) - 1, start - begin, stop - begin))
    return stretches, within
