"""``recency``: what was said last matters most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.ports.focus import CutView, FocusRequest, FocusScores
from megacontext.values import number

__all__ = ["RecencyLens", "recency_utility"]

SCALE_TOKENS = 256  # distance at which a token matters a quarter of what the last one does


def recency_utility(cut: CutView, scale_tokens: float = SCALE_TOKENS) -> npt.NDArray[np.float64]:
    """Utility of each entry, falling with distance d from the end as ``(1 + d / scale_tokens) ** -2``; sums to 1 for
    a long history."""
    if not len(cut.stops):
        return np.zeros(0)
    end = cut.stops[-1]
    utility: npt.NDArray[np.float64] = 1 / (1 + (end - cut.stops) / scale_tokens)
    utility -= 1 / (1 + (end - cut.starts) / scale_tokens)
    return utility


class RecencyLens:
    """Steep enough that the budget goes to unbroken recent text, with gists getting coarser before it."""

    name = "recency"
    needs_attention = False

    def __init__(self, *, scale_tokens: float = SCALE_TOKENS) -> None:
        self.scale_tokens = number("scale_tokens", scale_tokens, above=0)

    def score(self, request: FocusRequest) -> FocusScores:
        return FocusScores(utility=recency_utility(request.cut, self.scale_tokens))
