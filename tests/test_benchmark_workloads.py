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
