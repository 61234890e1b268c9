"""An answer that something overtakes, and what may happen beside it."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import (
    MegaContextError,
    MemoryStateError,
)
from megacontext.runtime import assembly
from megacontext.runtime.events import DoneEvent, TokenEvent

QUESTION = "What is the code for Kolibri?"
CONTINUATION = np.random.default_rng(5).integers(97, 123, 40).astype(np.uint32)


def test_a_stream_whose_source_was_erased_stops(tmp_path, base):
    with assembly.open(tmp_path / "e.mc", base=base, create=True, gister="mean", block_tokens=8) as memory:
        memory.append(np.frombuffer(b"The password is hush. " * 20, np.uint8), source="secret")
        with memory.session(budget_entries=256) as session:
            stream = session.generate(QUESTION, max_new_tokens=8, stop=())
            next(stream), next(stream)
            memory.erase("secret")
            session.save(tmp_path / "s")  # takes nothing in: the answer still knows
            with pytest.raises(MemoryStateError, match="erased"):
                next(stream)
            assert isinstance(list(session.generate(QUESTION, max_new_tokens=2))[-1], DoneEvent)


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.nll([1]),
        lambda session: session.refocus("budget"),
        lambda session: session.reveal(0, 9),
        lambda session: session.pin(0, 9),
        lambda session: session.unpin(0, 9),
        lambda session: session.resize(300),
        lambda session: session.close(),
    ],
)
def test_an_answer_whose_window_was_moved_stops_instead_of_going_on_in_another(memory, change):
    session = memory.session(budget_entries=512, refocus_interval=0)
    stream = session.generate(QUESTION, max_new_tokens=40, stop=())
    next(stream), next(stream)
    change(session)
    with pytest.raises(MemoryStateError, match="overtaken"):
        list(stream)


def refused(call, *args):
    with pytest.raises(MegaContextError):
        call(*args)


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.unpin(0, 9),
        lambda session: session.pin(0, 9),
        lambda session: refused(session.unpin, 9, 0),
        lambda session: refused(session.nll, [-1]),
        lambda session: refused(session.resize, 1),
    ],
)
def test_an_answer_whose_session_took_in_growth_stops_and_leaves_the_cut_alone(memory, change):
    """Whatever it is about to do, a refocus or its last token included, and though the call itself was refused."""
    with memory.session(budget_entries=400, refocus_interval=4) as session:
        num_events = len(list(session.generate(QUESTION, max_new_tokens=9, stop=())))
        for place in range(1, num_events - 1):
            stream = session.generate(QUESTION, max_new_tokens=9, stop=())
            for _ in range(place):
                next(stream)
            memory.append(CONTINUATION)
            change(session)
            cut, explained = session.working_context.cut, session.explain()
            with pytest.raises(MemoryStateError, match="overtaken"):
                list(stream)
            assert session.working_context.cut == cut
            assert session.explain() == explained


@pytest.mark.parametrize("lens", ["lexical", "attention"])
def test_saving_and_explaining_leave_an_answer_as_it_is(memory, tmp_path, lens):
    def tokens_of(look):
        with memory.session(budget_entries=400, lens=lens, refocus_interval=4) as session:
            for event in session.generate(QUESTION, max_new_tokens=9, stop=()):
                if isinstance(event, TokenEvent):
                    look(session)
            return event.token_ids, session.explain()

    def look(session):
        session.save(tmp_path / "s")
        session.explain()

    before = memory.num_tokens
    assert tokens_of(look) == tokens_of(lambda session: None)
    tokens_of(lambda session: (memory.append(CONTINUATION), look(session)))
    with memory.restore_session(tmp_path / "s") as restored:
        assert restored.working_context.num_tokens == before
        restored.refocus()
        assert restored.working_context.num_tokens == memory.num_tokens


def test_a_stream_that_was_overtaken_says_so(memory):
    with memory.session(budget_entries=256) as session:
        stream = session.generate(QUESTION, max_new_tokens=8, stop=())
        next(stream), next(stream)
        assert isinstance(list(session.generate(QUESTION, max_new_tokens=2))[-1], DoneEvent)
        with pytest.raises(MemoryStateError, match="overtaken"):
            list(stream)
