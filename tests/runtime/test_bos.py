"""A base that was trained with BOS sees it first in every window, and it is never part of the memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megacontext.errors import BudgetError, InvalidValueError
from megacontext.evaluation.methods.plain import FullContext, Recency
from megacontext.runtime import assembly
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.events import DoneEvent
from megacontext.runtime.placement import LEAD, SCRATCH
from megacontext.testing.fake_base import tiny_base, tiny_model

BOS = 2
TEXT = "The code for Kolibri is 48213. " * 8
NEXT = np.frombuffer(b"What is the code?", np.uint8).astype(np.uint32)


@pytest.fixture(scope="module")
def base():
    return tiny_base("llama", bos_token_id=BOS)


@pytest.fixture
def memory(tmp_path, base):
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="mean", block_tokens=8) as opened:
        opened.append_text(TEXT, source="fact")
        yield opened


def plain_nats(token_ids, num_scored):
    """Nats of the last tokens by the plain model, all at once."""
    ids = torch.tensor(token_ids.astype(np.int64))[None]
    with torch.no_grad():
        logits = tiny_model("llama")(input_ids=ids).logits[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return nats[-num_scored:].double().numpy()


@pytest.mark.parametrize("kv", ["exact", "patch"])
@pytest.mark.parametrize("positions", ["window", "global", "timeline"])
def test_a_window_of_all_tokens_is_the_plain_model_on_bos_and_them(memory, kv, positions):
    whole = np.concatenate([[BOS], memory.tokens(0, memory.num_tokens), NEXT]).astype(np.uint32)
    with memory.session(budget_entries=512, kv=kv, positions=positions) as session:
        np.testing.assert_allclose(session.nll(NEXT), plain_nats(whole, len(NEXT)), rtol=1e-4)
        keys = session._engine.window.rows.keys
    assert keys[0].tolist() == [LEAD, BOS, 0]
    assert (keys[1:, 0] == 0).all()


def test_a_base_without_the_habit_sees_what_it_always_saw(tmp_path):
    with assembly.open(tmp_path / "m", base=tiny_base("llama"), create=True, gister="mean", block_tokens=8) as memory:
        memory.append_text(TEXT, source="fact")
        whole = np.concatenate([memory.tokens(0, memory.num_tokens), NEXT])
        with memory.session(budget_entries=512) as session:
            np.testing.assert_allclose(session.nll(NEXT), plain_nats(whole, len(NEXT)), rtol=1e-4)
            assert (session._engine.window.rows.keys[:, 0] == 0).all()


def test_bos_is_no_part_of_the_memory(memory):
    assert memory.num_tokens == len(TEXT)
    assert BOS not in memory.tokens(0, memory.num_tokens)
    with memory.session(budget_entries=128) as session:
        list(session.generate("What is the code?", max_new_tokens=4, stop=()))
        spans = session.explain()
        assert session.working_context.cut.starts[0] == 0
    assert spans
    assert all(0 <= span.token_start < span.token_stop <= memory.num_tokens for span in spans)


@pytest.mark.parametrize("budget", [64, 96, 200])
@pytest.mark.parametrize("lens", ["attention", "lexical"])
def test_the_budget_counts_it(memory, budget, lens):
    """History, question, answer and BOS together never take more than the budget, and all of it can be used."""
    with memory.session(budget_entries=budget, lens=lens, refocus_interval=2, recent_tokens=8) as session:
        events = list(session.generate("code?", max_new_tokens=6, stop=()))
        rows = session._engine.window.rows.keys
        assert len(rows) <= budget
        assert (rows[:, 0] == LEAD).sum() == 1
        num_scratch = int((rows[:, 0] == SCRATCH).sum())
        assert len(rows) == 1 + session.working_context.cost + num_scratch
    assert isinstance(events[-1], DoneEvent)


def test_the_smallest_budget_that_an_error_names_is_enough(memory):
    with pytest.raises(BudgetError) as error:
        memory.session(budget_entries=20)
    smallest = int(str(error.value).split("at least ")[1].split(":")[0])
    with pytest.raises(BudgetError):
        memory.session(budget_entries=smallest - 1)
    with memory.session(budget_entries=smallest) as session:
        assert session.working_context.cost == smallest - 1
        session.nll(NEXT[:1])
        with pytest.raises(BudgetError, match=f"budget of at least {smallest + 16}"):
            session.nll(NEXT)


def test_pins_and_reveals_leave_room_for_it(memory):
    """What fits with a budget of one more entry does not fit beside BOS."""
    num_tokens = memory.num_tokens
    with memory.session(budget_entries=num_tokens + 1, recent_tokens=8) as session:
        session.pin(0, num_tokens)
        assert session.working_context.cost == num_tokens
        session.unpin(0, num_tokens)
        session.resize(num_tokens)
        with pytest.raises(BudgetError, match=f"at least {num_tokens + 1}"):
            session.pin(0, num_tokens)


def test_the_attention_of_entries_is_theirs_and_not_that_of_bos(memory):
    with memory.session(budget_entries=512) as session:
        session.nll(NEXT)
        engine = session._engine
        mass_W = np.zeros(1 + memory.num_tokens, dtype=np.float32)
        mass_W[0], mass_W[1], mass_W[-1] = 100.0, 1.0, 2.0
        mass = engine.focus.mass_per_entry(mass_W)
    assert mass.sum() == 3.0
    assert (mass[0], mass[-1]) == (1.0, 2.0)


@pytest.mark.parametrize("kv", ["exact", "patch"])
def test_a_refocus_keeps_it_in_the_cache(memory, kv):
    memory.append_text("Nothing here. " * 40, source="noise")
    with memory.session(budget_entries=200, kv=kv, lens="lexical", recent_tokens=8) as session:
        session.refocus("Kolibri")
        session.nll(NEXT[:1])
        ran = session.num_forwarded_entries
        session.reveal(300, 310)
        session.nll(NEXT[:1])
        keys, again = session._engine.window.rows.keys, session.num_forwarded_entries - ran
        assert keys[0].tolist() == [LEAD, BOS, 0]
        assert 0 < again < len(keys)  # BOS at least stayed
        if kv == "exact":
            fresh = session._engine.new_window()
            assert isinstance(fresh, ModelWindow)
            fresh.show(session._engine.window.rows, num_tokens=memory.num_tokens)
            torch.testing.assert_close(fresh.next_logits, session._engine.window.next_logits, rtol=1e-4, atol=1e-4)


def test_a_saved_session_goes_on_with_it(memory, tmp_path):
    with memory.session(budget_entries=128) as session:
        first = session.nll(NEXT)
        session.save(tmp_path / "talk.session")
    with memory.restore_session(tmp_path / "talk.session") as session:
        assert session._engine.window.rows.keys[0].tolist() == [LEAD, BOS, 0]
        np.testing.assert_array_equal(session.nll(NEXT), first)
        assert session.num_forwarded_entries < 2 * len(NEXT) + 128


def test_an_empty_memory_is_predicted_from_it(tmp_path, base):
    whole = np.concatenate([[BOS], NEXT]).astype(np.uint32)
    with (
        assembly.open(tmp_path / "empty", base=base, create=True, block_tokens=8) as memory,
        memory.session(budget_entries=64) as session,
    ):
        np.testing.assert_allclose(session.nll(NEXT), plain_nats(whole, len(NEXT)), rtol=1e-4)
        with pytest.raises(InvalidValueError, match="both empty"):
            list(session.complete("", max_new_tokens=4))


def test_the_rivals_of_an_evaluation_see_it_too(memory, base):
    whole = np.concatenate([[BOS], memory.tokens(0, memory.num_tokens), NEXT]).astype(np.uint32)
    full = FullContext(memory, base, budget_entries=128)
    np.testing.assert_allclose(full.nll(NEXT), plain_nats(whole, len(NEXT)), rtol=1e-4)
    recency = Recency(memory, base, budget_entries=64)
    shown = memory.tokens(memory.num_tokens - (64 - 1 - len(NEXT)), memory.num_tokens)
    window = np.concatenate([[BOS], shown, NEXT]).astype(np.uint32)
    np.testing.assert_allclose(recency.nll(NEXT), plain_nats(window, len(NEXT)), rtol=1e-4)


def test_what_extractive_gists_choose_by_is_given_it(base):
    rows = np.stack([NEXT, NEXT[::-1]])
    nats = base.surprise(rows)
    assert nats[:, 0].tolist() == [np.float32(np.log(256))] * 2
    for row, found in zip(rows, nats, strict=True):
        expected = plain_nats(np.concatenate([[BOS], row]).astype(np.uint32), len(row) - 1)
        np.testing.assert_allclose(found[1:], expected, rtol=1e-4)
