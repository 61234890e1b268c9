from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import (
    BudgetError,
    InvalidValueError,
)
from megacontext.runtime import assembly
from megacontext.runtime.events import DoneEvent, RefocusEvent, TokenEvent
from megacontext.runtime.patching import Patching

QUESTION = "What is the code for Kolibri?"
RNG = np.random.default_rng(5)
CONTINUATION = RNG.integers(97, 123, 40).astype(np.uint32)


def answer_of(events):
    events = list(events)
    assert isinstance(events[-1], DoneEvent)
    return events


def fact_block(memory):
    return next(source for source in memory.sources() if source.uri == "fact")


def test_a_question_opens_the_span_that_it_is_about(memory):
    fact = fact_block(memory)
    with memory.session(budget_entries=512) as session:
        report = session.refocus(QUESTION)
        wc = session.working_context
    raw = [(start, stop) for level, start, stop in wc.cut.rows() if level == 0]
    assert any(start <= fact.token_start + 8 < stop for start, stop in raw)
    assert report.num_entries == wc.num_entries
    assert report.num_expanded >= 1


def test_generate_streams_the_text_that_it_reports_at_the_end(memory):
    with memory.session(budget_entries=512, refocus_interval=8) as session:
        events = answer_of(session.generate(QUESTION, max_new_tokens=20, stop=()))
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    done = events[-1]
    assert done.reason == "length"
    assert len(done.token_ids) == 20
    assert "".join(event.text for event in tokens) == done.text
    assert [event.num_generated for event in events if isinstance(event, RefocusEvent)] == [0, 8, 16]


@pytest.mark.parametrize(("drift_bound", "is_refreshed"), [(0.0, True), (1e9, False)])
def test_a_stream_reports_how_often_its_window_was_computed_anew(memory, drift_bound, is_refreshed):
    kv = Patching(drift_bound=drift_bound, refresh_share=1.0)
    with memory.session(budget_entries=256, refocus_interval=4, kv=kv) as session:
        counts = []
        for question in (QUESTION, "Where did the heron go?", QUESTION, "Where did the heron go?"):
            events = answer_of(session.generate(question, max_new_tokens=16, stop=()))
            counts += [event.report.num_refreshes for event in events if isinstance(event, RefocusEvent)]
        assert sum(counts) == session._engine.num_refreshes
        assert (sum(counts) > 0) == is_refreshed
        session._engine.release()
        assert sum(counts) == session._engine.num_refreshes


def test_greedy_answers_repeat_and_seeded_samples_repeat(memory):
    def sample(session, **options):
        return answer_of(session.generate(QUESTION, max_new_tokens=12, stop=(), **options))[-1].token_ids

    with memory.session(budget_entries=512) as first, memory.session(budget_entries=512) as second:
        assert sample(first) == sample(second)
        warm = {"temperature": 1.0, "top_p": 0.9, "seed": 3}
        assert sample(first, **warm) == sample(second, **warm)
        assert sample(first, **warm) != sample(second, **{**warm, "seed": 4})


def test_an_answer_through_the_cache_equals_one_from_fresh_forwards(memory, base):
    """Greedy tokens chosen with reuse over refocuses are those of a new session that shows each window afresh."""
    with memory.session(budget_entries=256, refocus_interval=4) as session:
        token_ids = answer_of(session.generate(QUESTION, max_new_tokens=12, stop=()))[-1].token_ids
        window = session._engine._window
        shown = window.rows
        logits = window.next_logits.clone()
    with memory.session(budget_entries=256) as other:
        fresh = other._engine.show(np.zeros(0, np.uint32))
        fresh.show(type(shown)(np.zeros((0, 3), np.int64)), num_tokens=memory.num_tokens)
        fresh.show(shown, num_tokens=memory.num_tokens)
        np.testing.assert_allclose(fresh.next_logits.numpy(), logits.numpy(), atol=2e-4)
    assert len(token_ids) == 12


def test_a_decode_step_runs_one_entry_and_reads_no_storage(memory, monkeypatch):
    with memory.session(budget_entries=512, refocus_interval=0, lens="recency") as session:
        stream = session.generate(QUESTION, max_new_tokens=30, stop=())
        next(stream)  # the refocus
        next(stream)
        before = session.num_forwarded_entries
        monkeypatch.setattr(memory.reader, "tokens_at", lambda positions: pytest.fail("a decode step read tokens"))
        monkeypatch.setattr(memory.reader, "gist_batch", lambda *nodes: pytest.fail("a decode step read gists"))
        for _ in range(10):
            next(stream)
        assert session.num_forwarded_entries == before + 10


@pytest.mark.parametrize("num_tokens", [2_000, 60_000])
def test_a_session_starts_with_one_batch_of_reads_whatever_the_length(tmp_path, base, monkeypatch, num_tokens):
    with assembly.open(tmp_path / "m", base=base, create=True, gister="mean", block_tokens=8) as memory:
        memory.append(RNG.integers(0, 256, num_tokens))
        memory.store_gists()
        reader, seen = memory.reader, []
        read_tokens, read_gists = reader.tokens_at, reader.gist_batch
        monkeypatch.setattr(reader, "tokens_at", lambda rows: seen.append(rows) or read_tokens(rows))
        monkeypatch.setattr(reader, "gist_batch", lambda *nodes: seen.append(nodes) or read_gists(*nodes))
        with memory.session(budget_entries=200) as session:
            session.nll(CONTINUATION)
            assert session.num_forwarded_entries <= 200
        assert len(seen) == 2


def test_the_window_never_exceeds_the_budget(memory):
    with memory.session(budget_entries=200, refocus_interval=4) as session:
        for _ in session.generate(QUESTION, max_new_tokens=40, stop=()):
            window = session._engine._window
            if window is not None:
                assert window.cache.num_entries <= 200
            assert session.working_context.cost <= 200 - 40


def test_nll_counts_from_the_windows_last_entry_and_leaves_it_as_it_was(memory):
    with memory.session(budget_entries=512) as session:
        session.refocus(reserve_entries=len(CONTINUATION))
        first = session.nll(CONTINUATION)
        again = session.nll(CONTINUATION)
    assert first.dtype == np.float64
    assert first.shape == CONTINUATION.shape
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first, again, atol=1e-5)


def test_a_window_that_holds_everything_gives_the_plain_models_nll(tmp_path, base):
    history = RNG.integers(0, 256, 150).astype(np.uint32)
    with assembly.open(tmp_path / "m", base=base, create=True, gister="mean", block_tokens=8) as memory:
        memory.append(history)
        with memory.session(budget_entries=256) as session:
            session.reveal(0, 150)
            nats = session.nll(CONTINUATION)
    whole = np.concatenate([history, CONTINUATION])
    np.testing.assert_allclose(nats, base.surprise(whole[None])[0, 150:], atol=2e-4)


def test_a_refocus_reuses_what_stands_before_its_first_edit(memory):
    with memory.session(budget_entries=512, lens="recency") as session:
        session.nll(CONTINUATION[:1])
        before = session.num_forwarded_entries
        session.nll(CONTINUATION[:1])
        assert session.num_forwarded_entries == before
        session.resize(900)  # a new cache, and room for what follows
        session.reveal(1000, 1200)
        session.nll(CONTINUATION[:1])
        before = session.num_forwarded_entries
        session.reveal(8000, 8008)
        session.nll(CONTINUATION[:1])
        assert 0 < session.num_forwarded_entries - before <= session.working_context.cost - 200


def test_scratch_is_not_ingested(memory):
    num_tokens = memory.num_tokens
    with memory.session(budget_entries=512) as session:
        answer_of(session.generate(QUESTION, max_new_tokens=4))
    assert memory.num_tokens == num_tokens


def test_a_session_follows_the_memory(memory):
    with memory.session(budget_entries=512) as session:
        session.refocus()
        start = memory.append(CONTINUATION)
        session.refocus()
        wc = session.working_context
        assert wc.num_tokens == start + len(CONTINUATION)
        assert wc.levels[-1] == 0
        session.nll(CONTINUATION)


def test_what_an_earlier_question_reserved_is_given_back_when_the_memory_grows(tmp_path, base):
    """A chat that begins with a long line: what is said and answered there would not fit beside its own room."""
    with assembly.open(tmp_path / "m", base=base, create=True) as memory, memory.session(budget_entries=256) as session:
        long = "x" * 150
        answer_of(session.generate(long, max_new_tokens=60, stop=()))
        memory.append_text(f"{long}\n", source="chat", role="user")
        answer_of(session.generate("And now?", max_new_tokens=8, stop=()))
        memory.append(CONTINUATION, source="chat")
        session.refocus("And then?")
        assert session.working_context.num_tokens == memory.num_tokens
        assert session.working_context.cost <= 256


def test_what_was_erased_leaves_the_window(tmp_path, base):
    with assembly.open(tmp_path / "memory", base=base, create=True) as memory:
        memory.ingest(text="The weather was fine that day. " * 5, source="diary")
        memory.ingest(text="The code for Kolibri is 48213.", source="secret")
        with memory.session(budget_entries=512) as session, memory.session(budget_entries=512) as idle:
            before = session.nll(CONTINUATION)
            memory.erase("secret")
            after = session.nll(CONTINUATION)
            forwarded = session.num_forwarded_entries
            assert np.abs(after - before).max() > 1e-3
            session.nll(CONTINUATION)
            assert session.num_forwarded_entries - forwarded < 64, "the state is made anew once"
            np.testing.assert_allclose(after, idle.nll(CONTINUATION), atol=1e-5)


def test_a_memory_that_outgrew_its_window_is_seen_again_through_a_larger_one(memory):
    fact = fact_block(memory)
    with memory.session(budget_entries=180) as session:
        session.pin(fact.token_start, fact.token_stop)
        while True:
            memory.append(np.tile(CONTINUATION, 50)[:1999])
            try:
                session.refocus()
            except BudgetError:
                break
        with pytest.raises(BudgetError):
            session.resize(181)
        session.resize(400)
        assert session.working_context.num_tokens == memory.num_tokens
        session.nll(CONTINUATION)


def test_what_pins_have_outgrown_can_be_unpinned(memory):
    with memory.session(budget_entries=300) as session:
        session.pin(1000, 1100)
        session.resize(session.working_context.smallest_budget)
        memory.append(np.tile(CONTINUATION, 50)[:1999])
        with pytest.raises(BudgetError, match="unpin something"):
            session.refocus()
        session.unpin(1000, 1100)
        session.refocus()
        assert session.working_context.num_tokens == memory.num_tokens


def test_explain_names_the_source_of_the_fact(memory):
    with memory.session(budget_entries=512) as session:
        answer_of(session.generate(QUESTION, max_new_tokens=4))
        spans = session.explain(limit=30)
        few = session.explain(limit=1)
        with pytest.raises(InvalidValueError, match="limit is -1"):
            session.explain(limit=-1)
    assert "48213" in next(span.quote for span in spans if span.uri == "fact")
    assert {span.shown_because for span in spans} >= {"focus", "recent"}
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    assert len(few) == 1


def test_explain_quotes_a_short_source_whole_and_once(memory):
    K = memory.info.block_tokens
    memory.append(np.tile(CONTINUATION, 9)[: -memory.num_tokens % K + K - 2], source="filler")
    start, stop = memory.append_text("Bob: 77123.", source="bob")
    assert start // K < (stop - 1) // K, "a block ends in it"
    with memory.session(budget_entries=512) as session:
        answer_of(session.generate("Bob?", max_new_tokens=2))
        for limit in range(1, 30):
            quotes = [span.quote for span in session.explain(limit=limit) if span.uri == "bob"]
            assert quotes in ([], ["Bob: 77123."])
        assert quotes


def test_an_empty_memory_is_the_plain_model(tmp_path, base):
    with assembly.open(tmp_path / "m", base=base, create=True) as memory, memory.session(budget_entries=64) as session:
        assert session.refocus(QUESTION).num_entries == 0
        nats = session.nll(CONTINUATION)
        np.testing.assert_allclose(nats, base.surprise(CONTINUATION[None])[0], atol=2e-4)
        assert len(answer_of(session.complete("abc", max_new_tokens=3))[-1].token_ids) == 3
        assert session.explain() == []
        with pytest.raises(InvalidValueError, match="both empty"):
            list(session.complete("", max_new_tokens=3))


def test_pins_hold_through_a_refocus_and_unpin_lets_go(memory):
    with memory.session(budget_entries=300) as session:
        session.pin(1000, 1016)
        session.refocus(QUESTION)
        wc = session.working_context
        pinned = [row for row in wc.cut.rows() if row[1] >= 1000 and row[2] <= 1016]
        assert [level for level, _, _ in pinned] == [0, 0]
        session.unpin(1000, 1016)
        assert session.working_context.pins == ()


def test_positions_global_are_a_choice_within_the_bases_range(tmp_path, base):
    with assembly.open(tmp_path / "m", base=base, create=True, gister="mean", block_tokens=8) as memory:
        memory.append(RNG.integers(0, 256, 3000))
        with memory.session(budget_entries=256, positions="global") as session:
            assert np.isfinite(session.nll(CONTINUATION)).all()
            memory.append(RNG.integers(0, 256, 1500))
            with pytest.raises(InvalidValueError, match="positions='window'"):
                session.nll(CONTINUATION)


def test_positions_global_leave_room_for_the_answer(tmp_path, base):
    """What is generated stands behind the history and the question, and has to be in range, too."""
    room = base.info.max_positions
    with assembly.open(tmp_path / "m", base=base, create=True, gister="mean", block_tokens=8) as memory:
        memory.append(RNG.integers(97, 123, room - 60))
        with memory.session(budget_entries=256, positions="global") as session:
            answer_of(session.generate("Who?", max_new_tokens=20, stop=()))
            with pytest.raises(
                BudgetError, match=r"behind .* tokens, but with positions='global' .* use positions='win"
            ):
                session.generate("Who?", max_new_tokens=80, stop=())
            with pytest.raises(BudgetError, match="a continuation of 70 tokens needs 69 entries behind"):
                session.nll(np.arange(97, 97 + 70) % 256)


def test_a_refresh_sees_what_another_process_erased(tmp_path, base):
    with assembly.open(tmp_path / "memory", base=base, create=True) as memory:
        memory.ingest(text="The weather was fine that day. " * 40, source="diary")
        memory.ingest(text="The code for Kolibri is 48213. " * 3, source="secret")
        memory.ingest(text="The weather was fine that day. " * 40, source="later")
        with assembly.open(tmp_path / "memory", base=base) as reader, reader.session(budget_entries=256) as session:
            session.refocus("weather")
            before = session.nll(CONTINUATION)
            gists = reader.gists(1, 0, reader.num_tokens // 32)
            memory.erase("secret")
            reader.refresh()
            after = session.nll(CONTINUATION)
            fresh = reader.gists(1, 0, reader.num_tokens // 32)
        assert not np.array_equal(gists, fresh)
        with assembly.open(tmp_path / "memory", base=base) as again, again.session(budget_entries=256) as other:
            np.testing.assert_array_equal(fresh, again.gists(1, 0, again.num_tokens // 32))
            other.refocus("weather")
            np.testing.assert_allclose(after, other.nll(CONTINUATION), atol=1e-4)
        assert np.abs(after - before).max() > 1e-4
