"""``oracle``: somebody knows where the answer is. The ceiling that lenses are measured against."""

from __future__ import annotations

from collections.abc import Iterable

from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.focus import FocusRequest, FocusScores, Nomination
from megacontext.values import number

__all__ = ["OracleLens"]


class OracleLens:
    """Nominates the given token spans, a utility of 1 each, and leaves the rest to recency."""

    name = "oracle"
    needs_attention = False

    def __init__(self, *, spans: Iterable[tuple[int, int]] = (), recency: float = 0.25) -> None:
        self.spans = tuple(spans)
        self.recency = number("recency", recency, least=0)

    def score(self, request: FocusRequest) -> FocusScores:
        return FocusScores(
            utility=self.recency * recency_utility(request.cut),
            nominations=tuple(Nomination(start=start, stop=stop, utility=1.0) for start, stop in self.spans),
        )
