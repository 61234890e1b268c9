"""What the benchmarks count, on tiny models: the figures that need no clock."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from megacontext.runtime import assembly
from megacontext.testing.fake_base import tiny_base

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
