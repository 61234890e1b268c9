"""Bases by name and folder; what is known of one without torch, and what is said when something is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from megacontext.bases.precision import multiplies_bfloat16
from megacontext.bases.registry import BaseHandle, base_info, load_base, load_codec
from megacontext.errors import BaseModelError, InvalidValueError, UnknownNameError
from megacontext.testing.fake_base import tiny_model
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_loaded_base_is_the_model_of_the_folder(model_folder: Path) -> None:
    handle = BaseHandle(str(model_folder), device="cpu")
    base = handle.load()
    assert handle.load() is base
    ids = handle.codec.encode("The quick brown fox").token_ids
    logits = base.forward(
        base.embed(ids), np.arange(len(ids), dtype=np.float64), base.new_cache(8), num_logits=len(ids)
    )
    dtype = "bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "float32"
    with torch.no_grad():
        model = tiny_model("qwen3", vocab_size=512, dtype="bfloat16").to(getattr(torch, dtype))
        plain = model(torch.from_numpy(ids.astype(np.int64))[None])
    assert torch.equal(logits, plain.logits[0].float())
    np.testing.assert_array_equal(handle.embeddings.rows(ids), base.embed(ids).float().numpy())
    assert (base.info.fingerprint, base.info.name) == (handle.info.fingerprint, str(model_folder))
    assert (base.info.dtype, base.info.device) == (dtype, "cpu")
    assert base.info.stop_token_ids == (0,)
    assert base.info.vocab_size == 512
    assert base.info.max_positions == 4096


def test_dtype_can_be_chosen(model_folder: Path) -> None:
    base = load_base(str(model_folder), dtype="float32", device="cpu")
    assert base.embed(np.array([1], dtype=np.uint32)).dtype == torch.float32
    assert base.info.fingerprint == base_info(str(model_folder)).fingerprint
    for bad in ({"dtype": "int2"}, {"device": "tpu"}):
        with pytest.raises(InvalidValueError, match="expected"):
            load_base(str(model_folder), **bad)


def test_fingerprint_covers_tokenizer_and_embedding_only(folder: Path, tmp_path: Path) -> None:
    before = base_info(str(folder)).fingerprint
    edit_config(folder, transformers_version="0")
    assert base_info(str(folder)).fingerprint == before
    tiny_tokenizer(300).save(str(folder / "tokenizer.json"))
    assert base_info(str(folder)).fingerprint != before
    other_weights = write_model_folder(tmp_path / "other", seed=1)
    assert base_info(str(other_weights)).fingerprint != before


def test_facts_codec_and_embeddings_need_no_torch(model_folder: Path) -> None:
    program = (
        "import sys; from megacontext.bases.registry import BaseHandle; h = BaseHandle(sys.argv[1]);"
        "h.info, h.codec.encode('a fox'), h.embeddings.rows(h.codec.encode('fox').token_ids);"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(model_folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_question_template_and_stop_tokens_come_from_the_folder(folder: Path) -> None:
    (folder / "megacontext.json").write_text(json.dumps({"question_template": "Q: {question} A:"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 3]}))
    info = base_info(str(folder))
    assert info.question_template.format(question="x") == "Q: x A:"
    assert info.stop_token_ids == (0, 3)
    (folder / "megacontext.json").write_text(json.dumps({"question_template": "Q:"}))
    with pytest.raises(BaseModelError, match=r"lacks \{question\}"):
        base_info(str(folder))


def test_sharded_weights_are_found(folder: Path) -> None:
    before = base_info(str(folder)).fingerprint
    (folder / "model.safetensors").unlink()
    tiny_model("qwen3", vocab_size=512, dtype="bfloat16").save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert base_info(str(folder)).fingerprint == before


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown base 'nonesuch'; known: .*reference, reference-core, reference-plain"
    ):
        load_codec("nonesuch")
    with pytest.raises(BaseModelError, match="no such folder"):
        load_codec("/does/not/exist")


def test_a_hub_id_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match=r"go online or give a folder") as raised:
        load_base("nobody/nothing")
    assert "\n" not in str(raised.value)


def test_what_is_missing_from_a_folder_is_named(folder: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(BaseModelError, match=match) as raised:
            load_base(str(folder), device="cpu")
        assert "\n" not in str(raised.value)

    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    refused("cut off|cannot load")
    weights.write_bytes(b"\xff" * 64)
    refused("not a readable safetensors file")
    weights.unlink()
    refused("has no weights")
    weights.write_bytes(content)
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    refused("has no tokenizer.json")
    (folder / "vocab.txt").write_text("a\n")
    refused("could not be converted")
    (folder / "vocab.txt").unlink()
    (folder / "elsewhere").rename(folder / "tokenizer.json")
    edit_config(folder, is_encoder_decoder=True)
    refused("is an encoder-decoder")
    edit_config(folder, is_encoder_decoder=False, layer_types=["full_attention", "linear_attention"])
    refused("has layers of linear_attention")
    edit_config(folder, layer_types=None, rope_scaling={"type": "odd", "factor": 2.0})
    refused("rotates by rope_type odd")
    (folder / "config.json").unlink()
    refused("has no config.json")


def test_weights_that_do_not_fill_the_model_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="weights are missing"):
        load_base(str(folder), device="cpu")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "small", vocab_size=256)
    with pytest.raises(BaseModelError, match="use the tokenizer that belongs to the weights"):
        base_info(str(folder))


def test_the_bundled_model_is_there_by_both_names() -> None:
    info = base_info("reference")
    assert info == base_info("reference-core")
    assert info.name == "reference-core"
    text = "The code for Harlow is 48213.\n"
    assert load_codec("reference").decode(load_codec("reference").encode(text).token_ids) == text
