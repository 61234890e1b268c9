"""`recipes/core/evaluate.py` and `positions.py` on tiny nets: what is measured, and what must not be."""

from __future__ import annotations

import gzip
import json
import runpy
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import tiny_nets
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.training.loop import LoopState
from megacontext.training.tokens import TokenStore

RECIPES = Path(__file__).parents[2] / "recipes" / "core"
EARLIER = {"step": 1, "tokens": 9, "tokens_by_row_kind": {"plain_64": 9}, "runs": [], "minutes": 1, "machine": "one"}
Script = Callable[..., None]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain model to stand beside."""
    shape = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def script(tiny_run: Path, tiny_model: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Run ``main`` of a recipe on few rows; arguments that are given come last, and count."""

    def run(name: str, *arguments: object, **replaced: object) -> None:
        main: Any = runpy.run_path(str(RECIPES / name))["main"]
        for key, value in replaced.items():
            monkeypatch.setitem(main.__globals__, key, value)
        usual = ("--out", tiny_run, "--model", tiny_model, "--rows", 2, "--device", "cpu")
        beside = ("--plain", plain, "--threads", 1) if name == "evaluate.py" else ()
        monkeypatch.setattr("sys.argv", [name, *map(str, (*usual, *beside, *arguments))])
        main()

    return run


@pytest.fixture
def figures(tiny_model: Path) -> Path:
    """Of a model that was measured before."""
    path = tiny_model / "evaluation.json"
    path.write_text('{"run": {"step": 1}, "recall": {"codes": {"accuracy": NaN, "n": 0}}}')
    return path


def test_a_part_is_measured_again_and_what_was_never_asked_is_null(script: Script, figures: Path) -> None:
    script("evaluate.py", "--only", "plain")
    told = json.loads(figures.read_text(), parse_constant=pytest.fail)
    assert told["run"] == {"step": 1}, "of the run that made it"
    assert told["recall"]["codes"] == {"accuracy": None, "n": 0}
    assert told["plain"]["validation"]["books"]["bits_per_byte"] > 0


def checkpoint(run: Path, nets: Mapping[str, nn.Module]) -> None:
    """As a run leaves it that trained these nets."""
    masters = {f"{name}.{key}": weight for name, net in nets.items() for key, weight in net.state_dict().items()}
    state = asdict(LoopState(step=7, tokens=70, seconds=60.0, tokens_by_row_kind={"plain_64": 70}))
    torch.save({"optimizer": {"masters": masters}, "state": state}, run / "checkpoint.pt")
    (run / "starts.jsonl").write_text('{"time": "2026-11-30T07:37:31Z", "processes": 2}\n')


@pytest.mark.parametrize("begun", ["nowhere said", "2026-11-30T07:37:31Z"])
def test_what_made_a_model_is_told_by_its_run(
    begun: str, script: Script, figures: Path, tiny_run: Path, tiny_model: Path
) -> None:
    core, gist_net = tiny_nets(vocab_size=512)
    checkpoint(tiny_run, {"core": core, "gist_net": gist_net})
    if begun.startswith("2026"):
        (tiny_model / "starts.jsonl").write_text((tiny_run / "starts.jsonl").read_text())
        with (tiny_run / "starts.jsonl").open("a") as lines:
            lines.write('{"time": "2026-11-30T09:00:00Z", "processes": 2}\n')  # the run went on
    script("evaluate.py", "--only", "plain", measure_plain=lambda *_: {"books": 1.0})
    told = json.loads(figures.read_text())["run"]
    assert (told["step"], told["tokens_by_row_kind"]) == (7, {"plain_64": 70})


def test_a_run_that_did_not_make_a_model_tells_nothing_of_it(
    script: Script, figures: Path, tiny_run: Path, tiny_model: Path
) -> None:
    def refused(why: str) -> None:
        before = figures.read_bytes()
        with pytest.raises(InvalidValueError, match=rf"run is not the run that made {tiny_model} \({why}"):
            script("evaluate.py", "--only", "plain", measure_plain=pytest.fail)
        assert figures.read_bytes() == before

    core, gist_net = tiny_nets(vocab_size=512)
    checkpoint(tiny_run, {"core": tiny_nets()[0], "gist_net": gist_net})
    refused(r"embed_tokens\.weight has shape \(256, 32\) there and \(512, 32\) here")
    checkpoint(tiny_run, {"core": core})
    refused(r"there are 0 gist_net\.layers there and 1 here")
    checkpoint(tiny_run, {"core": core, "gist_net": gist_net})
    with gzip.open(tiny_model / "starts.jsonl.gz", "wt") as lines:
        lines.write('{"time": "2026-11-29T00:00:00Z"}\n')
    refused(r"starts\.jsonl of the two begin differently")


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (5, "step of run is None"),
        ({"step": "three"}, "step of run is 'three'"),
        (EARLIER | {"tokens_by_row_kind": {"plain_64": "9"}}, r"tokens_by_row_kind of run is {'plain_64': '9'}"),
        ({name: EARLIER[name] for name in EARLIER if name != "machine"}, "machine of run is None"),
    ],
)
def test_a_model_that_does_not_say_what_made_it_is_no_earlier_one(
    told: object, line: str, script: Script, figures: Path, tiny_run: Path, tmp_path: Path
) -> None:
    core, gist_net = tiny_nets(vocab_size=512)
    checkpoint(tiny_run, {"core": core, "gist_net": gist_net})
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "evaluation.json").write_text(json.dumps({"run": told}))
    with pytest.raises(InvalidValueError, match=rf"earlier.* does not say what made the model \({line}\); measure"):
        script("evaluate.py", "--only", "plain", "--earlier", tmp_path / "earlier", measure_plain=pytest.fail)
    (tmp_path / "earlier" / "evaluation.json").write_text(json.dumps({"run": EARLIER}))
    script("evaluate.py", "--only", "plain", "--earlier", tmp_path / "earlier", measure_plain=lambda *_: {"books": 1.0})
    assert json.loads(figures.read_text())["run"]["tokens_by_row_kind"] == {"plain_64": 79}


def test_a_plain_model_of_other_tokens_is_not_stood_beside(script: Script, figures: Path) -> None:
    line = r"reference-plain holds another tokenizer \(of 4,096 tokens\) than the model \(of 512\); give --plain a"
    with pytest.raises(InvalidValueError, match=line):
        script("evaluate.py", "--plain", "reference-plain", "--only", "before", measure_plain=pytest.fail)
    script("evaluate.py", "--plain", "reference-plain", "--only", "ratios", measure_ratios=lambda *_: {"codes": 1.0})
    assert json.loads(figures.read_text())["ratios"]["codes"] == 1.0, "where none stands"


def test_tokens_that_a_tokenizer_has_not_are_refused(
    script: Script, figures: Path, tiny_run: Path, stores: dict[str, TokenStore]
) -> None:
    (tiny_run / "data" / "tokenizer" / "tokenizer.json").unlink()  # or it would be told by that
    replace(stores["books"], ids_N=stores["books"].ids_N + 300).save(tiny_run / "data" / "books_held_out.npz")
    with pytest.raises(InvalidValueError, match=r"held-out books in .* has token \d+, but the tokenizer has 512; give"):
        script("evaluate.py", "--only", "plain", measure_plain=pytest.fail)


def test_figures_that_are_no_numbers_are_not_written(script: Script, figures: Path, tiny_model: Path) -> None:
    before = figures.read_bytes()
    with pytest.raises(BaseModelError, match=rf"{tiny_model} gives figures that are no numbers \(plain/books is nan"):
        script("evaluate.py", "--only", "plain", measure_plain=lambda *_: {"books": float("nan")})
    assert figures.read_bytes() == before
