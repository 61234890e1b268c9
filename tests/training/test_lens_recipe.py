"""`recipes/core/lens.py` from labels to a lens in its folder, on tiny nets and in one process."""

from __future__ import annotations

import argparse
import json
import runpy
from concurrent.futures import Executor, Future
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

from megacontext.bases.core_folder import read_core_folder
from megacontext.focus.lenses.features import MAX_LOG2
from megacontext.nets.shapes import FEATURES

RECIPE = Path(__file__).parents[2] / "recipes" / "core" / "lens.py"
BLOCKS = 8  # before the tail


class Here(Executor):
    """Does everything at once, in this process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Its names, for short rows."""
    found = runpy.run_path(str(RECIPE))
    inside = found["main"].__globals__
    monkeypatch.setitem(inside, "LENGTH", 768)
    monkeypatch.setitem(inside, "_workers", lambda args: Here())
    return inside


def test_a_lens_is_taught_judged_and_written(
    recipe: dict[str, Any],
    tiny_run: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"out": tiny_run, "model": tiny_model, "rows": 20, "measured": 80, "steps": 4, "processes": 1, "seeds": 1}
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["lens.py", *arguments, "--device", "cpu"])
    recipe["main"]()
    lens = read_core_folder(tiny_model, dtype=torch.float32, device=torch.device("cpu")).lens_net
    assert lens is not None
    told = json.loads((tiny_model / "lens.json").read_text())
    assert told["hits"]["all"]["lens"]["within_1"]["n"] > 0
    assert set(told["calibration"]["plain"]["level 1"]) >= {"correlation", "agreement"}
    assert "samples" in capsys.readouterr().out
    for test, apart in ((False, 8), (True, 16)):
        kept = recipe["label_kept"](argparse.Namespace(**given), test=test)
        assert {len(sample.evidence_C) for _, sample in kept} == {BLOCKS}, "or they could not be stacked"
        text = [sample for name, sample in kept if name == "plain"]
        nearest = [2 ** (MAX_LOG2 * float(one.features_CF[-1, FEATURES.index("log2_distance")])) for one in text]
        assert min(nearest) == pytest.approx(256, abs=0.5), "as far back as where text is judged"
        assert sorted({round(value) for value in nearest})[1] == 256 + apart
        assert all(not sample.saved_LC[0].isnan().any() for sample in text)
    monkeypatch.setattr("sys.argv", ["lens.py", *arguments, "--device", "cpu", "--judge", "--keep"])
    recipe["main"]()
    assert json.loads((tiny_model / "lens.json").read_text())["hits"] == told["hits"], (
        "the same lens, the same questions"
    )
