"""A checkpoint becomes an ordinary model folder; the recipe's settings and card are in order."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from megacontext.errors import BaseModelError, CorruptionError, InvalidValueError
from megacontext.training.export import export_model, load_checkpoint
from megacontext.training.preparation import save_tokenizer
from megacontext.training.windows import TextSource

from .test_loop import TINY, make_loop

RECIPE = Path(__file__).parents[2] / "recipes" / "reference"


def load_script(name: str) -> ModuleType:
    """A recipe's script as a module."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_checkpoint_is_exported_as_a_folder_that_transformers_opens(
    source: TextSource, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    loop = make_loop(source, tmp_path / "run", num_steps=4)
    loop.run()
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    model, state = load_checkpoint(tmp_path / "run" / "checkpoint.pt", TINY)
    assert state["step"] == 4
    export_model(model, tmp_path / "tokenizer", tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, loop.optimizer.weights[name]), name
    text = "The code for the quiet mill is 48213.\n"
    wrapped = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert wrapped(text)["input_ids"] == tokenizer.encode(text).ids
    assert wrapped.decode(wrapped(text)["input_ids"]) == text
    assert (wrapped.pad_token_id, wrapped.eos_token_id, wrapped.bos_token_id) == (0, 1, None)


def test_the_card_takes_its_figures_from_the_report() -> None:
    folder = Path(str(files("megacontext.bases"))) / "bundled" / "reference-plain"
    tables = load_script("card").figures(json.loads((folder / "evaluation.json").read_text()))
    assert tables in (folder / "README.md").read_text()


def test_what_cannot_be_exported_is_named(source: TextSource, tokenizer: Tokenizer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InvalidValueError, match=r"checkpoint\.pt is no file"):
        load_checkpoint(run / "checkpoint.pt", TINY)
    make_loop(source, run, num_steps=1).run()
    with pytest.raises(
        InvalidValueError, match=r"checkpoint\.pt is of another shape than \[model\] says; give the conf"
    ):
        load_checkpoint(run / "checkpoint.pt", replace(TINY, width=2 * TINY.width))
    model, _ = load_checkpoint(run / "checkpoint.pt", TINY)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    larger = Tokenizer.from_str(tokenizer.to_str())
    larger.add_tokens(["a word that nobody knows"])
    larger.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    with pytest.raises(InvalidValueError, match="holds a tokenizer of 513 tokens, but the model knows 512"):
        export_model(model, tmp_path / "tokenizer", tmp_path / "model")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptionError, match=r"tokenizer\.json is no tokenizer"):
        export_model(model, tmp_path / "tokenizer", tmp_path / "model")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"tokenizer_config\.json: not readable as JSON"):
        export_model(model, tmp_path / "tokenizer", tmp_path / "model")
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(
        InvalidValueError, match=r"tokenizer_config\.json does not exist; give the folder of a run, or of"
    ):
        export_model(model, tmp_path / "tokenizer", tmp_path / "model")
    assert not (tmp_path / "model").exists()
