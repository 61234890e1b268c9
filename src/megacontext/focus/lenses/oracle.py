"""``oracle``: somebody knows where the answer is. The ceiling that lenses are measured against."""

from __future__ import annotations

from collections.abc import Iterable

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.focus import FocusRequest, FocusScores, Nomination
from megacontext.values import number

__all__ = ["OracleLens"]


class OracleLens:
    """Nominates the given token spans, a utility of 1 each, and leaves the rest to recency.

    spans: where the answer stands, () for nowhere. An oracle that nobody tells anything (None) would look like one
    that found nothing, so asking it raises InvalidValueError; ``spans`` may be set before each question.
    """

    name = "oracle"
    needs_attention = False

    def __init__(self, *, spans: Iterable[tuple[int, int]] | None = None, recency: float = 0.25) -> None:
        self.spans = None if spans is None else tuple(spans)
        self.recency = number("recency", recency, least=0)

    def score(self, request: FocusRequest) -> FocusScores:
        if self.spans is None:
            raise InvalidValueError(
                "the lens 'oracle' was not told where the answer stands; set its spans to [(start, stop), ...], "
                "or use another lens, such as auto"
            )
        return FocusScores(
            utility=self.recency * recency_utility(request.cut),
            nominations=tuple(Nomination(start=start, stop=stop, utility=1.0) for start, stop in self.spans),
        )
