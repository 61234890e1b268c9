"""The scaling study: a small one from end to end, and curves through runs whose laws are known."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.held_out import core_logits
from megacontext.training.memory_windows import Control, score_windows
from megacontext.training.scaling import Curve
from megacontext.training.scoring import spread_windows, token_nlls
from megacontext.training.text_scoring import text_rows
from megacontext.training.windows import TextSource

RECIPE = Path(__file__).parents[2] / "recipes" / "core" / "scaling.py"
TEXT = Curve(floor=1.5, weight_factor=9.0, weight_power=0.2, token_factor=200.0, token_power=0.35)
GISTS = Curve(floor=1.5, weight_factor=9.0, weight_power=0.2, token_factor=220.0, token_power=0.35)
ANSWERS = Curve(floor=0.05, weight_factor=300.0, weight_power=0.5, token_factor=1.2e6, token_power=0.9)
GRID = [*product((6e4, 3e5, 9e5, 2e6), (2e6, 4e6, 8e6, 1.6e7))]
LAWLESS = "answers from gists, 32:1"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """What the script calls by name: what is put there counts."""
    found: dict[str, Any] = runpy.run_path(str(RECIPE))["main"].__globals__
    return found


def made_up(weights: float, tokens: float) -> dict[str, Any]:
    """A run that follows the laws, where it knows any answer; from gists of 32 tokens none does."""
    text, gists, answers = (law.at(weights, tokens) for law in (TEXT, GISTS, ANSWERS))
    told = min(answers, 2.3)
    return {
        "weights": weights,
        "tokens": tokens,
        "nats": text,
        "nats_by_context": {"512": text},
        "recall_nats": told,
        "first_digit_nats": told,
        "gist_recall_nats": {"2:1": told, "32:1": 2.31},
        "gist_first_digit_nats": {"2:1": told, "32:1": 2.31},
        "next_64": {"text": text, "32:1": {"real": gists, "shuffled": gists, "none": gists + 0.1}},
    }


@pytest.fixture(scope="module")
def found(recipe: dict[str, Any]) -> dict[str, Any]:
    """The curves through made-up runs."""
    fitted: dict[str, Any] = recipe["curves"]([made_up(*point) for point in GRID])
    return fitted


def test_curves_are_found_and_runs_at_chance_are_left_out(found: dict[str, Any]) -> None:
    runs = [made_up(*point) for point in GRID]
    at_chance = sum(run["recall_nats"] > 2.25 for run in runs)
    assert 2 <= at_chance <= len(runs) - 8, "the laws were to leave some at chance"
    assert LAWLESS not in found
    for name, law in (("text", TEXT), ("answers from tokens", ANSWERS), ("answers from gists, 2:1", ANSWERS)):
        fitted = found[name]
        assert len(fitted.points) == len(runs) - at_chance * name.startswith("answers")
        assert fitted.at(4e6, 6.4e7) == pytest.approx(law.at(4e6, 6.4e7), rel=0.03)
    delta = found["delta-NLL@64, 32:1"]
    assert delta.curve is None
    assert [point.nats for point in delta.points] == pytest.approx([20.0 / tokens**0.35 for _, tokens in GRID])
    assert delta.at(4e6, 6.4e7) == pytest.approx(20.0 / 6.4e7**0.35, abs=0.01)
    assert np.abs(delta.errors).max() < 0.02
    told = delta.foretold(4e6, 6.4e7)
    least, most = told["without_one"]
    assert least <= told["nats"] <= most < 0.06


def test_what_gists_save_is_a_share_of_what_text_saves(recipe: dict[str, Any]) -> None:
    def run(formed: int | None, real: float, shuffled: float) -> dict[str, Any]:
        ways = {"real": 4.0 + real, "shuffled": 4.0 + shuffled, "none": 4.2}
        return {"formed_after": formed, "gist_recall_nats": {"32:1": 2.0}, "next_64": {"text": 4.0, "32:1": ways}}

    runs = [run(900, 0.1, 0.15), run(900, 0.05, 0.2), run(None, 0.2, 0.0)]
    assert recipe["saved_shares"](runs) == {"32:1": {"real": [0.625, 0.5, 0.75], "shuffled": [0.125, 0.0, 0.25]}}
    assert recipe["saved_shares"](runs[2:]) == {}


def test_the_picture_has_a_panel_for_each(recipe: dict[str, Any], found: dict[str, Any], tmp_path: Path) -> None:
    told = {"nats": {"32": 3.5, "64": 3.4}, "floor": 3.0, "factor": 1.0, "power": 0.2}
    recipe["draw"](found, {"books": told}, tmp_path / "scaling.png")
    import matplotlib.image as images

    pixels_HWC = images.imread(tmp_path / "scaling.png")
    shown = [name for name in recipe["DRAWN"] if name in found]
    assert shown == ["text", "answers from tokens", "answers from gists, 2:1", "delta-NLL@64, 32:1"]
    rows = -(-(len(shown) + 1) // recipe["PANELS"])
    wide = pixels_HWC.shape[1] // recipe["PANELS"]
    band = pixels_HWC.shape[0] // rows
    for place in range(len(shown) + 1):
        row, column = divmod(place, recipe["PANELS"])
        panel_HWC = pixels_HWC[row * band : (row + 1) * band, column * wide : (column + 1) * wide, :3]
        assert panel_HWC.std() > 0.02, f"panel {place} is empty"


def test_a_run_is_judged_on_the_same_tokens_each_way(
    recipe: dict[str, Any], nets: tuple[Core, GistNet], source: TextSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipe, "JUDGED", 4)
    core, gist_net = nets
    told = recipe["judge"](core, gist_net, source)
    windows = np.stack([ids for store in source.stores.values() for ids in spread_windows(store, 4, 321)])
    nats_WT = token_nlls(core_logits(core), torch.from_numpy(windows))
    assert told["next_64"]["text"] == pytest.approx(float(nats_WT[:, -64:].mean()), abs=1e-4)
    for ratio in ("2:1", "8:1", "32:1"):
        ways = told["next_64"][ratio]
        assert len({round(nats, 6) for nats in (*ways.values(), told["next_64"]["text"])}) == 4
        assert 0 <= told["gist_recall_hits"][ratio] <= 1
    rows = [row for store in source.stores.values() for row in text_rows(store, 4, length=320)]
    is_open_BN = np.zeros((len(rows), 10), dtype=np.bool_)
    is_open_BN[:, -2:] = True
    asked: list[tuple[int, str, Control]] = [(16, "2:1", "real"), (4, "8:1", "none"), (1, "32:1", "shuffled")]
    for gist_width, ratio, control in asked:
        scores = score_windows(
            core, gist_net, rows, is_open_BN, block_tokens=32, gist_width=gist_width, control=control
        )
        assert told["next_64"][ratio][control] == pytest.approx(float(scores.nats_BT[:, -64:].mean()), abs=1e-5)


@pytest.fixture
def study(
    recipe: dict[str, Any], tiny_run: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Six runs of a step or three, judged by a few rows."""
    config = tmp_path / "tiny.toml"
    small = f'extends = "{RECIPE.with_name("scaling.toml")}"\n\n[model]\nvocab_size = 512\n'
    config.write_text(small)
    for name in ("base_m.toml", "base_l.toml", "base.toml"):
        (tmp_path / name).write_text((RECIPE.parent / name).read_text())
    few = {"JUDGED": 4, "WINDOW_CONTEXTS": (32, 64, 96, 128, 256, 320), "LEARNT_CONTEXT": 256}
    for name, value in few.items():
        monkeypatch.setitem(recipe, name, value)

    def run(*more: str) -> dict[str, Any]:
        asked = {"run": tiny_run, "out": tmp_path / "out", "config": config, "model": tiny_model, "device": "cpu"}
        arguments = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
        lengths = ("--tokens", "4000", "8000", "12000", "--widths", "48", "96")
        monkeypatch.setattr("sys.argv", ["scaling.py", *arguments, "--eager", *lengths, *more])
        recipe["main"]()
        told: dict[str, Any] = json.loads((tmp_path / "out" / "scaling.json").read_text())
        return told

    return run


def test_a_study_from_end_to_end_repeats_no_run(study: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told = study()
    assert [run["tokens"] for run in told["runs"][:3]] == sorted(run["tokens"] for run in told["runs"][:3])
    assert {run["formed_after"] for run in told["runs"]} == {None}
    assert set(told["curves"]) >= {"text", "delta-NLL@64, 32:1"}
    assert told["curves"]["text"]["runs"] == 6
    assert set(told["curves"]["text"]["predicted"]) == {"M", "L"}
    assert told["curves"]["text"]["predicted"]["L"]["without_one"] == [], "six runs less one fix no curve"
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert len(results) == 6
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 10_000
    assert study() == told
    assert {path: path.stat().st_mtime_ns for path in results} == results


def test_a_run_of_another_version_is_refused_before_any_trains(
    study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "w192_t1000_s1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"weights": 1e6, "tokens": 1e3, "nats": 5.0}))
    with pytest.raises(
        InvalidValueError, match=r"w192_t1000_s1/result\.json lacks seed, formed_after, .*rm -r that folder"
    ):
        study()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]
