"""What the benchmarks count, on tiny models: the figures that need no clock."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from megacontext.evaluation.cost import DecodeCost
from megacontext.runtime import assembly
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.engine import NO_TOKENS, Engine
from megacontext.runtime.patching import Patching
from megacontext.runtime.window import WindowRows
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name):
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def memory(tmp_path):
    with assembly.open(tmp_path / "m.mc", base=tiny_base(), create=True, gister="mean") as opened:
        opened.append(np.random.default_rng(0).integers(97, 123, 6000), source="notes")
        yield opened


def test_answers_together_run_the_entries_that_they_run_one_after_another(memory, monkeypatch):
    together = script("sessions_together")
    monkeypatch.setattr(together, "ANSWER_TOKENS", 6)
    whole, first, rest = together.measure_answers(memory, "tiny", 400, 3, 4, 1)
    assert whole["entries_run"] == whole["alone_entries_run"] > 0
    for way in ("together_s", "alone_s"):
        assert whole[way] == pytest.approx(first[way] + rest[way])
        assert min(first[way], rest[way]) > 0
    assert whole["dtype"] == "float32"


def test_a_cold_session_runs_one_window_and_a_question_no_more(memory, monkeypatch):
    history = script("history_cost")
    monkeypatch.setattr(history, "COUNTED_QUESTIONS", ("abc?", "xyz?"))
    window, question = history.counted_rows(memory, 400)
    assert 200 < window["value"] <= 400
    assert window["reached"]
    assert question["questions"] == 2
    assert 0 <= question["value"] <= question["most"] <= 400


def test_a_step_between_refocuses_and_one_with_its_share_of_them_are_told_apart(memory, monkeypatch):
    history = script("history_cost")
    asked = []

    def cost(session, *, num_tokens, prompt, num_generated):
        asked.append((num_generated, session._engine.config.refocus_interval))
        return DecodeCost(num_tokens=1, first_ms=90, per_token_ms=5, with_refocus_ms=8, num_generated=num_generated)

    monkeypatch.setattr(history, "decode_cost", cost)
    rows = history.measure([memory, memory], budget_entries=400, num_rounds=1)
    assert set(asked) == {(32, 32)}
    long_ms = {row["what"].partition(":")[0]: row["long_ms"] for row in rows}
    assert long_ms.pop("decode step between refocuses") == 5
    assert long_ms.pop("generate, refocuses included") == 8
    assert set(long_ms) == {"refocus on a question", "session start", "first window of a cold session"}
    assert [row["what"].partition(":")[0] for row in rows if "target" in row] == ["decode step between refocuses"]


def test_what_a_question_opens_is_counted_by_kind(memory, monkeypatch):
    history = script("history_cost")
    monkeypatch.setattr(history, "COUNTED_QUESTIONS", ("abc?",))
    with memory.session(budget_entries=400) as session:
        before = history.cut_rows(session)
        session.reveal(320, 321)
        opened = history.cut_rows(session) - before
        assert (0, 320, 352) in opened
    (count,) = history.question_counts(memory, 400)
    assert (count.num_run, count.num_tokens_opened, count.num_gists_opened) == (0, 0, 0)  # the same question again


def filled(base, num_entries):
    cache = base.new_cache(num_entries)
    ids = np.random.default_rng(1).integers(97, 123, num_entries).astype(np.uint32)
    base.forward(base.embed(ids), np.arange(float(num_entries)), cache)
    return cache


@pytest.mark.parametrize("make_base", [tiny_base, tiny_core_base])
def test_attention_to_one_entry_is_what_each_entry_gives_to_it_when_it_is_the_last(make_base):
    base, attending = make_base(), script("attending_window")
    given = attending.attention_to(base, filled(base, 20), np.array([6]), np.zeros(20))
    for last in (6, 7, 13, 19):
        cache = filled(base, 20)
        cache.truncate(last + 1)
        assert given[last] == pytest.approx(base.attention_mass(cache, num_queries=1)[6], rel=1e-4)
    assert (given[:6] == 0).all()  # nobody sees what comes later


@pytest.mark.parametrize("make_base", [tiny_base, tiny_core_base])
def test_entries_that_moved_together_look_at_each_other_as_before(make_base):
    """Keys turn when a row moves, the queries that are kept do not: who asks from elsewhere is turned, too."""
    base, attending = make_base(), script("attending_window")
    cache = filled(base, 20)
    whole = attending.attention_to(base, cache, np.arange(20), np.zeros(20))
    assert whole == pytest.approx(np.ones(20), rel=1e-5)
    before = attending.attention_to(base, cache, np.array([12]), np.zeros(20))
    omegas_F = base._omegas_F if hasattr(base, "_omegas_F") else cache.frequencies.omegas_F
    base._turning.turn(cache, omegas_F, np.full(20, 7.0))
    moved = attending.attention_to(base, cache, np.array([12]), np.full(20, 7.0))
    assert moved == pytest.approx(before, abs=1e-4)
    assert moved != pytest.approx(attending.attention_to(base, cache, np.array([12]), np.zeros(20)), abs=1e-4)


def test_a_window_that_probes_by_attention_runs_as_many_rows_and_chooses_those_that_looked_most(memory, monkeypatch):
    attending = script("attending_window")
    engine = Engine(memory, memory.base, SessionConfig(budget_entries=400, lens="recency", kv="patch"))
    engine.reserve(32, "nothing")
    window = engine.window = attending.AttendingWindow.like(engine.new_window())
    engine.show(NO_TOKENS)
    plans = []
    plan = attending.plan_patch
    monkeypatch.setattr(attending, "plan_patch", lambda *args, **named: plans.append(plan(*args, **named)) or plans[-1])
    engine.working_context.reveal(640, 641)
    rows = WindowRows.of_cut(engine.working_context.cut, 1)
    looked, old = window.looked_at_replaced(rows), WindowRows(window.rows.keys.copy())
    engine.show(NO_TOKENS)
    (chosen,) = plans
    by_age = plan(old, rows, Patching(), is_stale_O=np.zeros(len(old), bool), ran_O=np.zeros(len(old), int))
    assert len(chosen.run_R) == len(by_age.run_R)
    others = np.setdiff1d(chosen.kept_old_k[chosen.is_stale_W[chosen.kept_new_k]], chosen.probes_old_p)
    assert looked[chosen.probes_old_p].min() >= looked[others].max()
