"""What share of full context's gain over recency a window brings back, and how sure that is.

Nats of the same questions are held side by side, and whole histories are drawn with replacement for the interval:
questions about one history are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["SMALLEST_GAP", "Nats", "closure_report"]

SMALLEST_GAP = 0.1  # nats that full context must gain over recency for a share of it to mean something
FEWEST_ROWS = 8  # of fewer, percentiles are a third too narrow and more
BOOTSTRAPS = 2000

Nats = Mapping[tuple[int, int], float]
"""Nats a token of each answer, by the number of its row and where it starts there."""


def closure_report(recency: Nats, full: Nats, found: Nats, *, seed: int = 0) -> dict[str, float | list[float] | None]:
    """``closure``: (recency - found) / (recency - full), means over answers; None where full context gains less than
    ``SMALLEST_GAP``. ``interval``: 95 %, rows drawn with replacement; None where one draw's gain is below that, or
    where there are fewer than ``FEWEST_ROWS`` to draw from.

    Raises ValueError if the three are not of the same questions.
    """
    if not recency.keys() == full.keys() == found.keys():
        raise ValueError("closure needs the same questions three times")
    questions = sorted(recency)
    if not questions:
        return {"closure": None, "interval": None}
    rows = np.unique([row for row, _ in questions], return_inverse=True)[1]
    gains = _by_row([recency[one] - found[one] for one in questions], rows)
    gaps = _by_row([recency[one] - full[one] for one in questions], rows)
    counts = np.bincount(rows)
    if gaps.sum() / counts.sum() < SMALLEST_GAP:
        return {"closure": None, "interval": None}
    share = round(float(gains.sum() / gaps.sum()), 4)
    draws = np.random.default_rng(seed).integers(0, len(counts), (BOOTSTRAPS, len(counts)))
    drawn_gaps = gaps[draws].sum(1)
    if len(counts) < FEWEST_ROWS or (drawn_gaps / counts[draws].sum(1) < SMALLEST_GAP).any():
        return {"closure": share, "interval": None}
    edges = np.quantile(gains[draws].sum(1) / drawn_gaps, [0.025, 0.975])
    return {"closure": share, "interval": [round(float(edge), 4) for edge in edges]}


def _by_row(values: Sequence[float], rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    return np.bincount(rows, weights=np.asarray(values, np.float64)).astype(np.float64)
