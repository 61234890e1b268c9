"""``auto``: what the words of the query find, what the model looks at, and what was said last; where the words find too
little, what the base's own learned lens expects, if it has one."""

from __future__ import annotations

from megacontext.focus.lenses.attention import attention_utility
from megacontext.focus.lenses.lensnet import LensNetLens
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.focus import FocusRequest, FocusScores, Nomination
from megacontext.values import number

__all__ = ["AutoLens"]

COVERED = 0.6  # of a question's words: its names, and less than half of the others


class AutoLens:
    """A mixture whose parts each have a utility of about 1 before they are weighed.

    The weights put a place that covers the whole query first, then recent text, then what is attended to. Where no
    place holds more than ``covered`` of what the words of the query weigh, the learned lens, if there is one, is
    asked in place of the words: who asks for Bob and means Robert shares none with the text. 0: it never is.
    """

    name = "auto"
    needs_attention = True
    needs_learned = False

    def __init__(
        self, *, lexical: float = 1.0, recency: float = 0.25, attention: float = 0.1, covered: float = COVERED
    ) -> None:
        weights = {"lexical": lexical, "recency": recency, "attention": attention}
        self.weights = {name: number(f"the weight of {name}", weight, least=0) for name, weight in weights.items()}
        self.covered = number("covered", covered, least=0, most=1)
        self._lexical = LexicalLens(recency=0.0)
        self._learned = LensNetLens(recency=recency)

    def score(self, request: FocusRequest) -> FocusScores:
        attended = self.weights["attention"] * attention_utility(request)
        found = self._lexical.find(request) if self.weights["lexical"] else None
        if request.learned is not None and (found.share if found else 0.0) < self.covered:
            learned = self._learned.score(request)
            return FocusScores(utility=learned.utility + attended, nominations=learned.nominations)
        return FocusScores(
            utility=self.weights["recency"] * recency_utility(request.cut) + attended,
            nominations=tuple(
                Nomination(start=place.start, stop=place.stop, utility=place.utility * self.weights["lexical"])
                for place in (found.nominations if found else ())
            ),
            is_certain=found is not None and found.is_certain,
        )
