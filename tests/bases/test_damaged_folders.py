"""Folders that hold another model than they say, or none that can be read: one line each, and nothing else is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megacontext.bases.registry import base_info, load_base
from megacontext.errors import BaseModelError


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, match: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaseModelError, match=match) as raised:
        load_base(str(folder), device="cpu")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        # the norms of queries and keys would be left out, and another function would answer
        (
            {"model_type": "llama"},
            r"4 weights that a model of its config.json does not have, first .*k_norm.weight; use",
        ),
        ({"num_hidden_layers": 1, "layer_types": None}, None),
        (
            {"intermediate_size": 48},
            r"is stored as \(\d+, \d+\), but config.json asks for \(\d+, \d+\); use the config",
        ),
        ({"num_attention_heads": -4}, r"cannot load it .*; check that its config.json is that of the weights"),
        ({"hidden_size": "wide"}, r"cannot load it .*hidden_size.*; check that its config.json"),
        ({"layer_types": ["full_attention"]}, r"cannot load it .*layer.*; check that its config.json"),
        (
            {"quantization_config": {"quant_method": "zzz"}},
            r"quantised by 'zzz', which transformers does not know; known",
        ),
        ({"quantization_config": "zzz"}, r"quantised by .*zzz.*, which transformers does not know; known are .*"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    folder: Path, changes: dict[str, Any], match: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    change(folder / "config.json", **changes)
    if match is None:  # fewer layers than are stored: those behind may predict further tokens, so this is no mistake
        assert load_base(str(folder), device="cpu").info.vocab_size == 512
        return
    refused(folder, match, capfd)


@pytest.mark.parametrize("eos", ["x", -1, [0, "x"], True, 1.5])
def test_what_is_no_id_ends_no_answer(folder: Path, eos: object) -> None:
    change(folder / "generation_config.json", eos_token_id=eos)
    with pytest.raises(BaseModelError, match=r"generation_config.json: eos_token_id is .*; give an id from 0 to 511"):
        base_info(str(folder))


def test_ids_beyond_the_vocabulary_are_never_drawn_and_end_no_answer(folder: Path) -> None:
    change(folder / "generation_config.json", eos_token_id=[512, 3, 151329])
    assert base_info(str(folder)).stop_token_ids == (3,)


def test_weights_that_are_cut_off_are_refused_before_a_memory_is_made(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BaseModelError, match=r"is cut off before the end of .*; copy or save the model again"):
        base_info(str(folder))
