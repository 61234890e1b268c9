"""Folders that hold another model than they say, or none that can be read: one line each, and nothing else is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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
        ({"hidden_act": "zzz"}, r"cannot load it .*; check that its config.json is that of the weights"),
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


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": 64}, r"hidden_size is 64, but model.embed_tokens.weight is 32 wide; use the config"),
        ({"hidden_size": 10**12}, r"hidden_size is 1000000000000, but model.embed_tokens.weight is 32 wide; use"),
        ({"hidden_size": "wide"}, r"hidden_size is 'wide', which is text; it is a whole number from 1 on; use"),
        ({"vocab_size": 600}, r"vocab_size is 600, but model.embed_tokens.weight has 512 rows; use the config"),
        ({"num_hidden_layers": 10**6}, r"num_hidden_layers is 1000000, but the weights hold 2 layers; use the config"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers is 0; it is a whole number from 1 on; use"),
        ({"num_attention_heads": 0}, r"num_attention_heads is 0; it is a whole number from 1 on; use"),
        ({"num_attention_heads": 4.0}, r"num_attention_heads is 4.0; it is a whole number from 1 on; use"),
        ({"num_key_value_heads": -2}, r"num_key_value_heads is -2; it is a whole number from 1 on; use"),
        ({"model_type": None}, r"lacks model_type, the kind of model .*; use the config"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]; it is text, such as llama; use the config"),
        ({"max_position_embeddings": 1}, r"max_position_embeddings is 1; .* a whole number from 64 on; use"),
        ({"max_position_embeddings": "4096"}, r"max_position_embeddings is '4096', which is text; .* from 64 on; use"),
        ({"max_position_embeddings": 4096.0}, r"max_position_embeddings is 4096.0; .* a whole number from 64 on; use"),
        ({"rope_theta": -5}, r"rope_theta is -5; .* a finite number above 0, such as 10000.0; use"),
        ({"rope_parameters": {"rope_theta": 0}}, r"rope_parameters.rope_theta is 0; .* a finite number above 0"),
        (
            {"rope_scaling": {"full_attention": {"rope_theta": "10000"}}},
            r"rope_scaling.full_attention.rope_theta is '10000', which is text; .* a finite number above 0",
        ),
        ({"text_config": {"hidden_size": 48}}, r"config.json: text_config.hidden_size is 48, but"),
    ],
)
def test_what_no_model_of_these_weights_has_is_refused_before_a_memory_is_made(
    folder: Path, changes: dict[str, Any], match: str
) -> None:
    change(folder / "config.json", **{"layer_types": None, **changes})
    with pytest.raises(BaseModelError, match=match) as raised:
        base_info(str(folder))
    assert str(folder / "config.json") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_position_embeddings": 64},
        {"max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"head_dim": None, "intermediate_size": [64, 64]},
        {"vocab_size": 500, "additional_vocab_size": 12},
        {"hidden_size": 16, "text_config": {"num_hidden_layers": 2}},  # of what looks at images
    ],
)
def test_what_files_do_not_show_to_be_wrong_passes(folder: Path, changes: dict[str, Any]) -> None:
    change(folder / "config.json", **changes)
    assert base_info(str(folder)).dim == 32


def test_a_tokenizer_without_tokens_is_refused_before_a_memory_is_made(folder: Path) -> None:
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text())["model"]
    change(path, model={**model, "vocab": {}, "merges": []})
    with pytest.raises(BaseModelError, match=r"tokenizer.json: its vocabulary has no tokens; copy or save"):
        base_info(str(folder))


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        (
            "model.embed_tokens.weight",
            torch.inf,
            r"hold NaN or infinity \(in model.embed_tokens.weight\); copy or save",
        ),
        (
            "model.layers.1.mlp.up_proj.weight",
            torch.nan,
            r"hold NaN or infinity \(in model.layers.1.mlp.up_proj.weight",
        ),
        ("", 0.0, r"its logits are all 0, whatever it reads: its weights hold nothing that was learned; copy or save"),
    ],
)
def test_weights_that_are_no_numbers_or_hold_nothing_are_named(
    folder: Path, name: str, value: float, match: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(folder / "model.safetensors")
    for tensor in [weights[name][3]] if name else weights.values():
        tensor.fill_(value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
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
