"""`recipes/core/lens.py` from labels to a lens in its folder, on tiny nets and in one process."""

from __future__ import annotations

import argparse
import dataclasses
import json
import runpy
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

from megacontext.bases.core_folder import read_core_folder
from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.focus.lenses.features import MAX_LOG2
from megacontext.nets.shapes import FEATURES
from megacontext.training.lens_labels import LensSample

RECIPE = Path(__file__).parents[2] / "recipes" / "core" / "lens.py"
BLOCKS = 8  # before the tail
SAMPLE = [field.name for field in dataclasses.fields(LensSample)]


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


@pytest.fixture
def label_all(
    recipe: dict[str, Any], tiny_run: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Label the test side in no time, with ``--keep`` or what else is given."""

    def label_part(args: argparse.Namespace, shares: Mapping[str, float], test: bool, part: int) -> None:
        folder = args.out / "lens" / f"test_{part}"
        folder.mkdir(parents=True)
        torch.save([{"name": "plain", **dict.fromkeys(SAMPLE, torch.zeros(1))}], folder / "plain_measured_000000.pt")

    def run(shares: Mapping[str, float], **given: object) -> list[str]:
        usual = {"out": tiny_run, "model": tiny_model, "rows": 20, "measured": 80, "processes": 1, "keep": False}
        args = argparse.Namespace(**usual | given)
        recipe["label_all"](args, shares, test=True)
        return [name for name, _ in recipe["label_kept"](args, test=True)]

    monkeypatch.setitem(recipe, "label_part", label_part)
    return run


def test_samples_are_kept_where_the_same_is_asked_for(
    label_all: Callable[..., list[str]], tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = {"books": 0.5, "code": 0.5}
    assert label_all(shares, keep=True) == ["plain"]
    assert "lens/test.json is not there, so there are no samples to keep: labelling" in capsys.readouterr().out
    assert label_all(shares, keep=True) == ["plain"]
    assert not capsys.readouterr().out
    for changed, line in (
        ({"rows": 3000}, r"rows \(20, now 3000\)"),
        ({"measured": 300}, r"measured \(80, now 300\)"),
        ({"shares": {"books": 1.0}}, r"shares \({'books': 0\.5, 'code': 0\.5}, now {'books': 1\.0}\)"),
    ):
        with pytest.raises(InvalidValueError, match=rf"samples were made with other {line}; leave out --keep"):
            label_all(**{"shares": shares, "keep": True} | changed)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_damaged_file_of_samples_is_named(
    content: bytes | None, label_all: Callable[..., list[str]], tiny_run: Path
) -> None:
    label_all({"books": 1.0})
    (file,) = (tiny_run / "lens" / "test_0").glob("*.pt")
    if content is None:
        torch.save([{"name": "plain"}], file)
    else:
        file.write_bytes(content)
    with pytest.raises(
        CorruptionError, match=rf"{file} is cut off or holds no samples \(.*; leave out --keep, and all"
    ):
        label_all({"books": 1.0}, keep=True)


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
