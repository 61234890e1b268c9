from __future__ import annotations

import numpy as np
import pytest

from megacontext.focus.lenses import lexical
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.ports.catalog import SearchHit
from megacontext.runtime import engine as engine_module
from megacontext.runtime.focusing import OneLook

QUESTIONS = ["What is the code for Kolibri?", "Kolibri", "Who is nobody?", "What is the code for Kolibri?"]


class CountingMemory:
    """Counts what is asked of the memory that it stands for."""

    def __init__(self, memory):
        self._memory = memory
        self.num_tokens = memory.num_tokens
        self.codec = memory.codec
        self.reader = self
        self.asked = []

    def tokens(self, start, stop):
        return self.token_batch([(start, stop)])[0]

    def token_batch(self, spans):
        self.asked += [("tokens", *span) for span in spans]
        return [self._memory.tokens(*span) for span in spans]

    def texts(self, spans):
        return [self.codec.decode(token_ids) for token_ids in self.token_batch(spans)]

    def search_hits(self, text, *, limit):
        self.asked.append(("search", text, limit))
        return self._memory.search_hits(text, limit=limit)


def focuses(memory, monkeypatch, make_look):
    """The cut, utility and report after each question, and the searches that it took."""
    counting = CountingMemory(memory)
    monkeypatch.setattr(engine_module, "OneLook", lambda _, num_tokens: make_look(counting, num_tokens=num_tokens))
    with memory.session(budget_entries=384, lens="auto") as session:
        found = []
        for question in QUESTIONS:
            report = session.refocus(question)
            utility = session._engine.focus.utility.tolist()
            found.append((session.working_context.cut.rows(), utility, report.num_expanded, report.num_collapsed))
    return found, [what for what in counting.asked if what[0] == "search"], counting.asked


def test_a_refocus_with_auto_searches_once_and_finds_what_two_searches_found(memory, monkeypatch):
    monkeypatch.setattr(lexical, "WHOLE", 2.0)  # so that it looks at the window, however sure it is
    once, searches, asked = focuses(memory, monkeypatch, OneLook)
    find = LexicalLens.find
    monkeypatch.setattr(LexicalLens, "find", lambda lens, request: find(LexicalLens(recency=0.0), request))
    twice, searches_before, asked_before = focuses(memory, monkeypatch, lambda counting, num_tokens: counting)
    assert once == twice
    assert len(searches) == len(QUESTIONS)
    assert searches_before == [search for search in searches for _ in range(2)]
    assert len(asked) < len(asked_before)


@pytest.mark.parametrize(("question", "looks"), [("What is the code for Kolibri?", False), ("Who is nobody?", True)])
def test_a_question_that_words_answer_does_not_run_twice(memory, question, looks):
    with memory.session(budget_entries=384, lens="auto") as session:
        session.refocus(question)
        assert (session.num_forwarded_entries > 0) == looks


def test_a_look_asks_the_memory_once_and_hands_out_copies(memory):
    counting = CountingMemory(memory)
    look = OneLook(counting, num_tokens=counting.num_tokens)
    hits = look.search_hits("Kolibri", limit=4)
    assert hits
    assert all(isinstance(hit, SearchHit) for hit in hits)
    expected = list(hits)
    hits.clear()
    assert look.search_hits("Kolibri", limit=4) == expected
    assert look.search_hits("Kolibri", limit=1) == expected[:1]
    assert look.text(0, 8) == look.text(0, 8) == memory.text(0, 8)
    assert look.texts([(4, 8), (0, 8), (8, 20)]) == [memory.text(4, 8), memory.text(0, 8), memory.text(8, 20)]
    np.testing.assert_array_equal(look.tokens(0, 8), memory.tokens(0, 8))
    assert look.num_tokens == memory.num_tokens
    read = [("tokens", 0, 8), ("tokens", 4, 20), ("tokens", 0, 8)]  # what follows on is read at once
    assert counting.asked == [("search", "Kolibri", 4), ("search", "Kolibri", 1), *read]


@pytest.mark.parametrize("lens", ["lexical", "auto"])
def test_what_a_memory_gains_is_found_by_the_next_refocus(memory, lens):
    with memory.session(budget_entries=384, lens=lens) as session:
        session.refocus("What is the code for Baxter?")
        start, stop = memory.append_text("The code for Baxter is 99120.", source="later")
        memory.append(np.full(500, 98))
        session.refocus("What is the code for Baxter?")
        rows = session.working_context.cut.rows()
    assert all(any(level == 0 and low <= token < high for level, low, high in rows) for token in range(start, stop))
