"""``auto``: what the words of the query find, what the model looks at, and what was said last."""

from __future__ import annotations

from megacontext.focus.lenses.attention import attention_utility
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.focus import FocusRequest, FocusScores, Nomination
from megacontext.values import number

__all__ = ["AutoLens"]


class AutoLens:
    """A mixture whose parts each have a utility of about 1 before they are weighed.

    The weights put a place that covers the whole query first, then recent text, then what is attended to.
    """

    name = "auto"
    needs_attention = True

    def __init__(self, *, lexical: float = 1.0, recency: float = 0.25, attention: float = 0.1) -> None:
        weights = {"lexical": lexical, "recency": recency, "attention": attention}
        self.weights = {name: number(f"the weight of {name}", weight, least=0) for name, weight in weights.items()}
        self._lexical = LexicalLens(recency=0.0)

    def score(self, request: FocusRequest) -> FocusScores:
        utility = self.weights["recency"] * recency_utility(request.cut)
        utility += self.weights["attention"] * attention_utility(request)
        found = self._lexical.score(request).nominations if self.weights["lexical"] else ()
        return FocusScores(
            utility=utility,
            nominations=tuple(
                Nomination(start=place.start, stop=place.stop, utility=place.utility * self.weights["lexical"])
                for place in found
            ),
        )
