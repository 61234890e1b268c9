"""What gists and lenses must beat: a window without its gists, and a lens by chance. Foreign gists: ``foreign.py``."""

from __future__ import annotations

from random import Random

import numpy as np

from megacontext.evaluation.methods.focused import RECENCY, WindowShape
from megacontext.evaluation.methods.foreign import session_of
from megacontext.evaluation.methods.method import TokenIds
from megacontext.evaluation.methods.plain import PlainWindow
from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.base import Base
from megacontext.ports.focus import FocusRequest, FocusScores, Nomination
from megacontext.runtime.opened import OpenedMemory

__all__ = ["RandomLens", "WithoutGists"]


class WithoutGists(PlainWindow):
    """The raw tokens of a MegaContext window; where its gists stood, there is nothing. Uses fewer entries than it may:
    the difference to the window with gists is what these say, and, where positions follow the history (a base that
    learned gists), that the tokens stand closer together."""

    name = "no-gists"
    label = "no gists"

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int, shape: WindowShape = RECENCY) -> None:
        super().__init__(memory, base, budget_entries=budget_entries)
        self._session = session_of(memory, shape.config(budget_entries))

    def context_ids(self, query: str, room: int) -> TokenIds:
        self._session.refocus(query, reserve_entries=self.budget_entries - room)
        wc = self._session.working_context
        raw = wc.levels == 0
        spans = list(zip(wc.starts[raw].tolist(), wc.stops[raw].tolist(), strict=True))
        return np.concatenate(self.memory.reader.token_batch(spans))

    def close(self) -> None:
        super().close()
        self._session.close()


class RandomLens:
    """As many places as the lexical lens nominates, by chance; the same ones for the same question."""

    name = "random"
    needs_attention = False

    def __init__(self, *, num_places: int = 6, seed: int = 0) -> None:
        self.num_places = num_places
        self.seed = seed

    def score(self, request: FocusRequest) -> FocusScores:
        utility = 0.25 * recency_utility(request.cut)
        if not len(request.cut.stops):
            return FocusScores(utility=utility)
        block, num_tokens = request.cut.block_tokens, int(request.cut.stops[-1])
        random = Random(f"{self.seed}/{request.query_text}")
        blocks = random.sample(range(-(-num_tokens // block)), min(self.num_places, -(-num_tokens // block)))
        return FocusScores(
            utility=utility,
            nominations=tuple(
                Nomination(start=at * block, stop=min((at + 1) * block, num_tokens), utility=1.0) for at in blocks
            ),
        )
