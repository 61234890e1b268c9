"""What every ``Lens`` promises, as a test class to subclass: give it ``make`` and run pytest."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.focus.allocators.greedy import GreedyAllocator
from megacontext.focus.refocusing import refocus
from megacontext.focus.scores import validate_scores
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import FocusRequest, Lens
from megacontext.testing.text_memory import BLOCK_TOKENS, TextMemory
from megacontext.tree.geometry import TreeGeometry

__all__ = ["LensSuite", "focus_request", "small_context"]

TEXT = "The weather was fine and nothing much happened on that day. " * 60


def small_context(memory: TextMemory, *, budget_entries: int = 160) -> WorkingContext:
    """A cut of a memory, its last block raw."""
    config = WorkingContextConfig(budget_entries=budget_entries, sink_tokens=0, recent_tokens=8)
    return WorkingContext(TreeGeometry(BLOCK_TOKENS), num_tokens=memory.num_tokens, config=config)


def focus_request(
    memory: TextMemory, query_text: str, wc: WorkingContext, *, attention_mass: np.ndarray | None = None
) -> FocusRequest:
    """What a session asks a lens. attention_mass: float [entries of the cut]."""
    return FocusRequest(
        cut=wc.view(),
        memory=memory,
        query_text=query_text,
        query_token_ids=np.zeros(0, dtype=np.uint32),
        attention_mass=None if attention_mass is None else attention_mass.astype(np.float32),
    )


class LensSuite:
    """Subclass it as ``TestMyLens`` and override ``make``."""

    queries = ("What about the weather?", "", "?!", "ünïcode \x00 words")

    def make(self) -> Lens:
        """A fresh lens."""
        raise NotImplementedError

    def ask(self, lens: Lens, memory: TextMemory, query_text: str, wc: WorkingContext) -> FocusRequest:
        """A request as this lens wants it: with attention if it asks for it."""
        mass = np.linspace(0, 1, wc.num_entries) if lens.needs_attention else None
        return focus_request(memory, query_text, wc, attention_mass=mass)

    def test_it_is_a_lens(self) -> None:
        lens = self.make()
        assert isinstance(lens, Lens)
        assert lens.name
        assert isinstance(lens.needs_attention, bool)

    def test_scores_are_valid_and_the_same_again(self) -> None:
        """One finite utility, never negative, for each entry; nominations within the history."""
        memory, lens = TextMemory(TEXT), self.make()
        for query in self.queries:
            request = self.ask(lens, memory, query, small_context(memory))
            scores, again = lens.score(request), lens.score(request)
            validate_scores(request.cut, scores)
            np.testing.assert_array_equal(scores.utility, again.utility)
            assert list(scores.nominations) == list(again.nominations)

    def test_they_move_a_window_of_any_size(self) -> None:
        memory = TextMemory(TEXT)
        for budget_entries in (40, 160, 2000):
            lens = self.make()
            wc = small_context(memory, budget_entries=budget_entries)
            for query in self.queries:
                refocus(wc, lens.score(self.ask(lens, memory, query, wc)), GreedyAllocator())
                assert wc.cost <= budget_entries

    def test_an_empty_history_has_no_scores(self) -> None:
        memory, lens = TextMemory(""), self.make()
        scores = lens.score(self.ask(lens, memory, "anything?", small_context(memory)))
        assert scores.utility.shape == (0,)
        assert not scores.nominations

    def test_what_it_is_given_stays_as_it_is(self) -> None:
        memory, lens = TextMemory(TEXT), self.make()
        request = self.ask(lens, memory, self.queries[0], small_context(memory))
        before = [array.copy() for array in (request.cut.levels, request.cut.starts, request.cut.stops)]
        lens.score(request)
        for array, kept in zip((request.cut.levels, request.cut.starts, request.cut.stops), before, strict=True):
            np.testing.assert_array_equal(array, kept)

    @pytest.mark.parametrize("num_chars", [1, 31, 32, 33, 300])
    def test_short_histories(self, num_chars: int) -> None:
        memory, lens = TextMemory(TEXT[:num_chars]), self.make()
        request = self.ask(lens, memory, "weather", small_context(memory))
        validate_scores(request.cut, lens.score(request))
