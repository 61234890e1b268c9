"""`recipes/core/evaluate.py` and `positions.py` on tiny nets: what is measured, and what must not be."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from megacontext.errors import BaseModelError

RECIPES = Path(__file__).parents[2] / "recipes" / "core"
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


def test_figures_that_are_no_numbers_are_not_written(script: Script, figures: Path, tiny_model: Path) -> None:
    before = figures.read_bytes()
    with pytest.raises(BaseModelError, match=rf"{tiny_model} gives figures that are no numbers \(plain/books is nan"):
        script("evaluate.py", "--only", "plain", measure_plain=lambda *_: {"books": float("nan")})
    assert figures.read_bytes() == before
