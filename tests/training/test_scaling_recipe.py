"""The scaling study: a small one from end to end, and curves through runs whose laws are known."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training import scaling_judge, scaling_runs
from megacontext.training.held_out import core_logits
from megacontext.training.memory_windows import Control, score_windows
from megacontext.training.recall import Asking
from megacontext.training.rows import aligned_row
from megacontext.training.scaling import Curve, Product
from megacontext.training.scaling_judge import answer_masks
from megacontext.training.scoring import token_nlls
from megacontext.training.text_scoring import text_rows
from megacontext.training.tokens import TokenStore
from megacontext.training.windows import TextSource

RECIPE = Path(__file__).parents[2] / "recipes" / "core" / "scaling.py"
TEXT = Curve(floor=1.5, weight_factor=9.0, weight_power=0.2, token_factor=200.0, token_power=0.35)
DELTA = Product(factor=1e-3, weight_power=0.12, token_power=0.15)
ANSWERS = Curve(floor=0.05, weight_factor=300.0, weight_power=0.5, token_factor=1.2e6, token_power=0.9)
GRID = [*product((6e4, 3e5, 9e5, 2e6), (2e6, 4e6, 8e6, 1.6e7))]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """What the script calls by name: what is put there counts."""
    found: dict[str, Any] = runpy.run_path(str(RECIPE))["main"].__globals__
    return found


def made_up(weights: float, tokens: float) -> dict[str, Any]:
    """A run that follows the laws where copying formed; where it did not, answers and gists say nothing."""
    text, answers = TEXT.at(weights, tokens), ANSWERS.at(weights, tokens)
    told = min(answers, 2.3)
    formed = answers < 2.25
    return {
        "formed_after": 1_000_000 if formed else None,
        "weights": weights,
        "tokens": tokens,
        "nats": text,
        "nats_by_context": {"512": text},
        "recall_nats": told,
        "first_digit_nats": told,
        "gist_recall_nats": {"2:1": told},
        "gist_first_digit_nats": {"2:1": told},
        "next_64": {"text": 4.0, "32:1": {"real": 4.0 + (DELTA.at(weights, tokens) if formed else 0.9)}},
    }


@pytest.fixture(scope="module")
def found(recipe: dict[str, Any]) -> dict[str, Any]:
    """The curves through made-up runs."""
    fitted: dict[str, Any] = scaling_runs.curves([made_up(*point) for point in GRID])
    return fitted


def test_laws_are_found_without_the_runs_in_which_nothing_formed(
    recipe: dict[str, Any], found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [made_up(*point) for point in GRID]
    at_chance = sum(run["formed_after"] is None for run in runs)
    assert 2 <= at_chance <= len(runs) - 8, "the laws were to leave some at chance"
    for name, law in (("text", TEXT), ("answers from tokens", ANSWERS), ("answers from gists, 2:1", ANSWERS)):
        fitted = found[name]
        assert len(fitted.points) == len(runs) - at_chance * name.startswith("answers")
        assert fitted.law.at(4e6, 6.4e7) == pytest.approx(law.at(4e6, 6.4e7), rel=0.03)
        assert np.abs(fitted.errors).max() < 0.05
        told = fitted.foretold(4e6, 6.4e7)
        least, most = told["without_some"]
        assert least - 0.01 <= told["nats"] <= most + 0.01
    delta = found["delta-NLL@64, 32:1"]
    assert delta.law.at(4e6, 6.4e7) == pytest.approx(DELTA.at(4e6, 6.4e7), rel=1e-3)
    monkeypatch.setattr(scaling_runs, "left_out", lambda points, fit: [])
    assert scaling_runs.curves([{**run, "formed_after": None} for run in runs]).keys() == {
        "text",
        "text, 256 to 512 tokens of context",
    }


def test_what_gists_save_is_a_share_of_what_text_saves(recipe: dict[str, Any]) -> None:
    def run(formed: int | None, real: float, shuffled: float) -> dict[str, Any]:
        ways = {"real": 4.0 + real, "shuffled": 4.0 + shuffled, "none": 4.2}
        return {
            "weights": 5,
            "formed_after": formed,
            "gist_recall_nats": {"32:1": 2.0},
            "next_64": {"text": 4.0, "32:1": ways},
        }

    runs = [run(900, 0.1, 0.15), run(900, 0.05, 0.2), run(None, 0.2, 0.0)]
    assert scaling_runs.saved_shares(runs) == {"5": {"32:1": {"real": 0.625, "shuffled": 0.125}}}
    assert scaling_runs.saved_shares(runs[2:]) == {"5": {"32:1": {"real": None, "shuffled": None}}}


def test_the_picture_has_a_panel_for_each(recipe: dict[str, Any], found: dict[str, Any], tmp_path: Path) -> None:
    told = {"nats": {"32": 3.5, "64": 3.4}, "floor": 3.0, "factor": 1.0, "power": 0.2}
    recipe["draw"](found, {"books": told}, tmp_path / "scaling.png", model="some-core")
    import matplotlib.image as images

    pixels_HWC = images.imread(tmp_path / "scaling.png")
    shown = [name for name in recipe["DRAWN"] if name in found]
    assert shown == ["text", "answers from tokens", "answers from gists, 2:1", "delta-NLL@64, 32:1"]
    rows = -(-(len(shown) + 1) // recipe["PANELS"])
    wide = pixels_HWC.shape[1] // recipe["PANELS"]
    band = pixels_HWC.shape[0] // rows
    series = np.array([31, 119, 180]) / 255  # matplotlib's first colour
    for place in range(len(shown) + 1):
        row, column = divmod(place, recipe["PANELS"])
        panel_HWC = pixels_HWC[row * band : (row + 1) * band, column * wide : (column + 1) * wide, :3]
        assert (np.abs(panel_HWC - series).max(-1) < 0.02).sum() > 50, f"panel {place} is empty"


def test_digits_that_follow_one_another_are_told_from_the_first(source: TextSource) -> None:
    rows = [aligned_row(source, Random(f"digits/{index}"), 192, Asking(test=True, key="code")) for index in range(12)]
    answers_BT, firsts_BT = answer_masks(rows)
    for row, answers_T, firsts_T in zip(rows, answers_BT, firsts_BT, strict=True):
        inside = False
        for place, weight in enumerate(row.weights_T):
            asked, is_scored = weight > 1, place >= 192 - 64
            assert answers_T[place] == (asked and is_scored)
            assert firsts_T[place] == (asked and not inside and is_scored)
            inside = asked
    assert 3 * firsts_BT.sum() < answers_BT.sum(), "most digits follow another"


def test_a_run_is_judged_on_the_same_tokens_each_way(
    nets: tuple[Core, GistNet], source: TextSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling_judge, "NUM_JUDGED", 4)
    core, gist_net = nets
    told = scaling_judge.judge(core, gist_net, source)
    rows = [row for store in source.stores.values() for row in text_rows(store, 4, length=320)]
    windows = np.stack([np.append(row.tokens_T, row.targets_T[-1]) for row in rows])
    nats_WT = token_nlls(core_logits(core), torch.from_numpy(windows))
    assert told["next_64"]["text"] == pytest.approx(float(nats_WT[:, -64:].mean()), abs=1e-4)
    is_open_BN = np.zeros((len(rows), 10), dtype=np.bool_)
    is_open_BN[:, -2:] = True
    asked: list[tuple[int, str, Control]] = [(16, "2:1", "real"), (4, "8:1", "none"), (1, "32:1", "shuffled")]
    for gist_width, ratio, control in asked:
        scores = score_windows(
            core, gist_net, rows, is_open_BN, block_tokens=32, gist_width=gist_width, control=control
        )
        assert told["next_64"][ratio][control] == pytest.approx(float(scores.nats_BT[:, -64:].mean()), abs=1e-5)
    for ratio in ("2:1", "8:1", "32:1"):
        assert len({round(nats, 6) for nats in (*told["next_64"][ratio].values(), told["next_64"]["text"])}) == 4
        assert told["gist_recall_nats"][ratio] != told["recall_nats"]


def test_too_little_held_out_text_is_named(source: TextSource, stores: dict[str, TokenStore]) -> None:
    scaling_judge.refuse_short_text(source)
    short = {
        **stores,
        "code": TokenStore(ids_N=stores["code"].ids_N[:4000], starts_D=stores["code"].starts_D[:1], names=("one",)),
    }
    with pytest.raises(InvalidValueError, match="held-out code has 4,000 tokens, but windows of 4,097 are judged"):
        scaling_judge.refuse_short_text(TextSource(source.tokenizer, short, {"books": 0.5, "code": 0.5}))


@pytest.fixture
def study(
    recipe: dict[str, Any], tiny_run: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Nine runs of a step or three, judged by a few rows; the first stage ends after a step."""
    config = tmp_path / "tiny.toml"
    stages = RECIPE.with_name("scaling.toml").read_text()
    stages = stages.replace("max_answer_nll = 0.7", "max_answer_nll = 100.0\ngate_batches = 1")
    stages = stages.replace("min_steps = 50", "min_steps = 1").replace(
        "memory.toml", str(RECIPE.with_name("memory.toml"))
    )
    config.write_text(stages + "\n[model]\nvocab_size = 512\n")
    monkeypatch.setattr(scaling_judge, "NUM_JUDGED", 4)
    monkeypatch.setattr(scaling_judge, "WINDOW_CONTEXTS", (32, 64, 96, 128, 256, 320))
    monkeypatch.setattr(scaling_judge, "LEARNT_CONTEXT", 256)
    monkeypatch.setitem(recipe, "WINDOW_CONTEXTS", (320,))

    def run(*more: str) -> dict[str, Any]:
        asked = {"run": tiny_run, "out": tmp_path / "out", "config": config, "model": tiny_model, "device": "cpu"}
        arguments = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
        lengths = ("--tokens", "4000", "8000", "12000", "--widths", "48", "96", "144")
        monkeypatch.setattr("sys.argv", ["scaling.py", *arguments, "--eager", *lengths, *more])
        recipe["main"]()
        told: dict[str, Any] = json.loads((tmp_path / "out" / "scaling.json").read_text())
        return told

    return run


def test_a_study_from_end_to_end_repeats_no_run(
    study: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"scaling\.json"):
        study("--only-train", "--widths", "144")
    told = study()
    assert "w144" not in capsys.readouterr().out.split("w96_t12000")[1], "those of the first call are there"
    assert [run["formed_after"] is not None for run in told["runs"]] == [False, True, True] * 3
    assert told["curves"]["text"]["runs"] == 9
    assert len(told["curves"]["text"]["left_out_errors"]) == 9
    assert set(told["curves"]["text"]["predicted"]) == {"M", "L"}
    assert told["model"]["next_64"]["text"] > 0
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert len(results) == 9
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 10_000
    assert study() == told
    assert {path: path.stat().st_mtime_ns for path in results} == results


def test_runs_that_cannot_be_fitted_together_are_refused_before_any_trains(
    study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "w192_t1000_s1"
    folder.mkdir(parents=True)
    result = {"weights": 1e6, "tokens": 1e3, "nats": 5.0}
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(InvalidValueError, match=r"json lacks seed, made_of, .*; remove .*w192_t1000_s1, and it"):
        study()
    rest = ("seed", "formed_after", "model", "nats_by_context", "next_64", "recall_nats", "first_digit_nats")
    others = dict.fromkeys((*rest, "gist_recall_nats", "gist_first_digit_nats"), 1)
    (folder / "result.json").write_text(json.dumps({**result, **others, "made_of": {"settings": "other"}}))
    with pytest.raises(InvalidValueError, match="w192_t1000_s1 was made by other settings or of other token arrays"):
        study()
    with pytest.raises(InvalidValueError, match="3 runs of 1 sizes and 3 lengths do not fix a curve"):
        study("--out", str(tmp_path / "new"), "--widths", "48")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (("nats",), float("nan"), "text is nan"),
        (("nats",), "abc", "text is 'abc'"),
        (("weights",), 0, "weights is 0"),
        (("tokens",), "8e6", "tokens is '8e6'"),
        (("seed",), "one", "seed is 'one'"),
        (("formed_after",), "soon", "formed_after is 'soon'"),
        (("model",), {}, "KeyError: 'width'"),
        (("next_64",), 3, "TypeError"),
        (("next_64", "2:1"), {"real": 4.0}, "KeyError: 'shuffled'"),
        (("gist_recall_nats", "2:1"), None, "answers from gists, 2:1 is None"),
    ],
)
def test_a_run_with_a_broken_figure_is_named(
    recipe: dict[str, Any], tmp_path: Path, at: tuple[str, ...], value: object, reason: str
) -> None:
    ways = {"real": 4.2, "shuffled": 4.3, "none": 4.4}
    run = made_up(1e6, 8e6) | {"seed": 1, "made_of": {}, "model": {"width": 48}, "next_64": {"text": 4.0, "2:1": ways}}
    run["next_64"]["32:1"] = ways
    path = tmp_path / "w48_t8000000_s1" / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps(run))
    assert scaling_runs.results(tmp_path, {}) == [run]
    part: Any = run
    for name in at[:-1]:
        part = part[name]
    part[at[-1]] = value
    path.write_text(json.dumps(run))
    with pytest.raises(InvalidValueError, match="holds no figures of a run") as caught:
        scaling_runs.results(tmp_path, {})
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_a_study_cannot_be_made_of_is_refused(study: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValueError, match=r"--out .*/file/new: .*/file is a file; give a folder"):
        study("--out", str(tmp_path / "file" / "new"))
    config = tmp_path / "small.toml"
    config.write_text((tmp_path / "tiny.toml").read_text().replace("vocab_size = 512", "vocab_size = 300"))
    with pytest.raises(InvalidValueError, match=r"small\.toml: vocab_size is 300, but the tokenizer of .* has 512"):
        study("--config", str(config))
    assert not (tmp_path / "out").exists()
