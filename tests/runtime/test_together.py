"""Answers that are written together are those that would have been written alone."""

from __future__ import annotations

import numpy as np
import pytest

import megacontext as mc
from megacontext.errors import BaseModelError, InvalidValueError, MemoryClosedError, MemoryStateError
from megacontext.runtime import assembly
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base

QUESTIONS = ("What is it?", "Where did she go, and why so early in the day?", "Who?", "How?")


@pytest.fixture(params=[tiny_base, tiny_core_base])
def memories(request, tmp_path):
    base = request.param()
    opened = []
    for number, size in enumerate((5000, 900)):
        memory = assembly.open(tmp_path / f"{number}.mc", base=base, create=True, gister="mean", block_tokens=8)
        memory.append(np.random.default_rng(number).integers(97, 123, size), source="notes")
        opened.append(memory)
    yield opened
    for memory in opened:
        memory.close()


def sessions(memories, refocus_interval=4):
    """Several sessions, their windows of different lengths, over different memories."""
    budgets = (200, 330, 260, 410)
    return [
        memories[n % 2].session(budget_entries=budget, refocus_interval=refocus_interval, kv="exact")
        for n, budget in enumerate(budgets)
    ]


def streams(opened):
    return [
        session.generate(question, max_new_tokens=5 + 4 * n, stop=())
        for n, (session, question) in enumerate(zip(opened, QUESTIONS, strict=True))
    ]


def test_they_are_the_answers_of_each_alone(memories):
    alone = [list(stream) for stream in streams(sessions(memories))]
    together = [[] for _ in QUESTIONS]
    for number, event in mc.together(streams(sessions(memories))):
        together[number].append(event)
    for ours, theirs in zip(together, alone, strict=True):
        assert [type(event) for event in ours] == [type(event) for event in theirs]
        assert ours[-1] == theirs[-1]


def test_tokens_of_all_come_in_rounds(memories):
    found = list(mc.together(streams(sessions(memories, refocus_interval=0))))
    tokens = [number for number, event in found if isinstance(event, mc.TokenEvent)]
    assert tokens[:8] == [0, 1, 2, 3, 0, 1, 2, 3]
    done = {number: event for number, event in found if isinstance(event, mc.DoneEvent)}
    assert [len(done[number].token_ids) for number in range(4)] == [5, 9, 13, 17]


@pytest.mark.parametrize("lens", ["auto", "recency"])
def test_the_token_that_a_refocus_waits_for_runs_with_those_of_the_others(memories, lens, monkeypatch):
    """A lens that looks at the window wants it there; for others it runs with what their refocus edits."""
    base = memories[0].base.load()
    single, batches = [], []
    forward, decode_batch = base.forward, base.decode_batch

    def watched_forward(inputs_TD, *args, **named):
        single.append(len(inputs_TD))
        return forward(inputs_TD, *args, **named)

    def watched_batch(inputs_BD, *args):
        batches.append(len(inputs_BD))
        return decode_batch(inputs_BD, *args)

    monkeypatch.setattr(base, "forward", watched_forward)
    monkeypatch.setattr(base, "decode_batch", watched_batch)
    opened = [memories[0].session(budget_entries=300 + n, refocus_interval=4, lens=lens, kv="exact") for n in range(3)]
    done = dict(mc.together([session.generate(QUESTIONS[1], max_new_tokens=10, stop=()) for session in opened]))
    assert [len(event.token_ids) for event in done.values()] == [10] * 3
    assert 1 not in single or lens == "recency"  # whose cut may stay, so that this token is all that is new
    assert batches == [3] * (9 if lens == "auto" else 7)


@pytest.mark.parametrize("num_events", range(4, 16))
def test_an_answer_left_amid_a_round_goes_on_by_itself(memories, num_events):
    """The token that waited for the others runs, and runs once; together again it does, too."""
    alone = [list(stream) for stream in streams(sessions(memories, refocus_interval=0))]
    started = streams(sessions(memories, refocus_interval=0))
    events = mc.together(started)
    found = [[] for _ in QUESTIONS]
    for _ in range(num_events):
        number, event = next(events)
        found[number].append(event)
    events.close()
    found[0] += list(started[0])
    for number, event in mc.together(started[1:]):
        found[number + 1].append(event)
    for ours, theirs in zip(found, alone, strict=True):
        assert ours[-1] == theirs[-1]
        assert len(ours) == len(theirs)


def test_one_that_fails_ends_with_its_error_and_the_others_go_on(memories):
    opened = sessions(memories)
    events = mc.together(streams(opened))
    found = [next(events) for _ in range(6)]
    opened[1].generate("Another?", max_new_tokens=2)  # overtakes the answer in progress
    found += list(events)
    errors = [(number, event) for number, event in found if isinstance(event, mc.MegaContextError)]
    assert [number for number, _ in errors] == [1]
    assert isinstance(errors[0][1], MemoryStateError)
    assert sorted(number for number, event in found if isinstance(event, mc.DoneEvent)) == [0, 2, 3]


@pytest.mark.parametrize("closed", [0, 1])
def test_a_memory_that_is_closed_ends_its_own_answers_only(tmp_path, closed):
    """Whosever event came last."""
    base = tiny_base()
    for place in range(12):
        opened = []
        for side in ("left", "right"):
            memory = assembly.open(tmp_path / f"{place}{side}.mc", base=base, create=True, gister="mean")
            memory.append(np.arange(97, 120).repeat(20))
            opened.append(memory)
        events = mc.together(
            [m.session(budget_entries=200).generate("Who?", max_new_tokens=8, stop=()) for m in opened]
        )
        found = [next(events) for _ in range(place + 1)]
        opened[closed].close()
        last = dict([*found, *events])
        assert isinstance(last[closed], MemoryClosedError)
        assert isinstance(last[1 - closed], mc.DoneEvent)
        opened[1 - closed].close()


def test_different_models_step_each_in_a_batch_of_its_own(memories, tmp_path):
    with assembly.open(tmp_path / "o.mc", base=tiny_base("llama"), create=True, gister="mean") as other:
        other.append(np.arange(97, 120).repeat(20))
        opened = [*sessions(memories)[:2], other.session(budget_entries=200), other.session(budget_entries=250)]
        done = dict(mc.together(streams(opened)))
    assert all(isinstance(event, mc.DoneEvent) for event in done.values())
    assert len(done) == 4


def test_nothing_together_is_nothing_and_what_is_no_answer_is_named(memories):
    assert list(mc.together([])) == []
    stream = streams(sessions(memories))[0]
    for bad in ([stream, "x"], [stream, stream], [iter(())]):
        with pytest.raises(InvalidValueError, match="streams holds"):
            list(mc.together(bad))


def test_a_question_between_two_tokens_of_a_round_has_its_window_to_itself(memories):
    one, other = memories[0].session(budget_entries=300, kv="exact"), memories[0].session(budget_entries=330)
    alone = list(one.generate(QUESTIONS[2], max_new_tokens=8, stop=()))[-1]
    again = None
    for number, event in mc.together([each.generate(QUESTIONS[0], max_new_tokens=8, stop=()) for each in (one, other)]):
        if number == 1 and isinstance(event, mc.TokenEvent) and again is None:
            again = one.generate(QUESTIONS[2], max_new_tokens=8, stop=())
            next(again), next(again)
    assert list(again)[-1] == alone


def test_of_two_answers_of_one_session_the_older_was_overtaken(memories):
    session = memories[0].session(budget_entries=300)
    both = [session.generate(QUESTIONS[0], max_new_tokens=3, stop=()) for _ in range(2)]
    last = dict(mc.together(both))
    assert isinstance(last[0], MemoryStateError)
    assert isinstance(last[1], mc.DoneEvent)
    for bad in (None, 5, iter(both)):
        with pytest.raises(InvalidValueError, match="give a list"):
            list(mc.together(bad))


def test_an_answer_whose_model_fails_ends_alone(memories, monkeypatch):
    """Batched with the others: these go on, and none of their tokens runs twice."""
    alone = [list(stream) for stream in streams(sessions(memories))]
    opened = sessions(memories)
    started = streams(opened)
    base = memories[0].base.load()
    forward, decode_batch, num_rounds = base.forward, base.decode_batch, [0]

    def is_bad(cache):
        return num_rounds[0] >= 3 and opened[2].window_cache() is cache

    def batch(inputs_BD, positions_B, caches):
        num_rounds[0] += 1
        if any(map(is_bad, caches)):
            raise BaseModelError("the logits of a row are no numbers")
        return decode_batch(inputs_BD, positions_B, caches)

    def single(inputs_TD, positions_T, cache, **named):
        if is_bad(cache):
            raise BaseModelError("the logits are no numbers")
        return forward(inputs_TD, positions_T, cache, **named)

    monkeypatch.setattr(base, "decode_batch", batch)
    monkeypatch.setattr(base, "forward", single)
    for session in opened:
        session.window_cache = lambda session=session: session._engine.window and session._engine.window.cache
    found = [[] for _ in QUESTIONS]
    for number, event in mc.together(started):
        found[number].append(event)
    assert isinstance(found[2][-1], BaseModelError)
    for number in (0, 1, 3):
        assert found[number][-1] == alone[number][-1]
    assert list(started[2]) == [], "it has ended"
