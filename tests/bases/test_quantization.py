"""Bases of 8 and 4 bits a weight, by the packages that people quantise with, on a CPU."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers.utils import logging

import megacontext
from megacontext.bases.quantization import check_quantization, computing_dtype, quantization_method
from megacontext.bases.registry import base_info, load_base
from megacontext.errors import BaseModelError
from megacontext.ports.base import Base
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder
from megacontext.testing.tiny_families import family_config, family_model

# What those packages warn of when they are imported is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = np.arange(1, 200, 7, dtype=np.uint32)
# How far logits may be from those of the weights before they were quantised, of their norm. Random weights have
# nothing to spare: 4 bits cost them a fifth to a half, what was trained far less.
LIMITS = {"bitsandbytes int8": 0.1, "bitsandbytes nf4": 0.6, "torchao int8": 0.08, "torchao int4": 0.6}


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: a Llama wide enough for scales of 32 and 64 weights."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    config = family_config("llama", hidden_size=64, intermediate_size=128, head_dim=16, vocab_size=512)
    family_model(config).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def quantization(kind: str) -> object:
    if kind == "bitsandbytes int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    if kind == "bitsandbytes nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    if kind == "torchao int8":
        return transformers.TorchAoConfig(Int8WeightOnlyConfig())
    return transformers.TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))


@pytest.fixture(scope="module")
def saved(plain_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each kind, as its package saves it."""
    folders = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in LIMITS:
            folder = folders[kind] = tmp_path_factory.mktemp("models") / kind.replace(" ", "-")
            transformers.AutoModelForCausalLM.from_pretrained(
                plain_folder, quantization_config=quantization(kind), dtype=torch.float32
            ).save_pretrained(folder)
            Tokenizer.from_file(str(plain_folder / "tokenizer.json")).save(str(folder / "tokenizer.json"))
    return folders


def logits_of(base: Base) -> torch.Tensor:
    positions = np.arange(len(IDS), dtype=np.float64)
    return base.forward(base.embed(IDS), positions, base.new_cache(len(IDS)), num_logits=len(IDS))


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


@pytest.mark.parametrize("kind", LIMITS)
def test_a_folder_saved_quantised_is_a_base(kind: str, saved: dict[str, Path], plain_folder: Path) -> None:
    plain = logits_of(load_base(str(plain_folder), device="cpu"))
    base = load_base(str(saved[kind]), device="cpu")
    model = transformers.AutoModelForCausalLM.from_pretrained(saved[kind], dtype=torch.float32)
    with torch.no_grad():
        own = model(torch.from_numpy(IDS.astype(np.int64))[None]).logits[0]
    assert error(logits_of(base), own) < 1e-3
    assert 1e-3 < error(logits_of(base), plain) < LIMITS[kind]
    assert base.info.fingerprint == base_info(str(plain_folder)).fingerprint
    assert base.can_patch  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_base_is_quantised_while_it_is_read(dtype: str, plain_folder: Path, tmp_path: Path) -> None:
    plain = load_base(str(plain_folder), device="cpu")
    base = load_base(str(plain_folder), device="cpu", dtype=dtype)
    kind = {"int8": "torchao int8", "int4": "bitsandbytes nf4"}[dtype]
    assert 1e-3 < error(logits_of(base), logits_of(plain)) < LIMITS[kind]
    assert base.info.fingerprint == plain.info.fingerprint
    assert base.info.dtype == plain.info.dtype
    path = tmp_path / "notes.mc"
    with megacontext.open(path, base=str(plain_folder), device="cpu", create=True) as memory:
        memory.append_text("The quick brown fox jumps over the lazy dog. " * 30)
    with megacontext.open(path, base=str(plain_folder), device="cpu", dtype=dtype) as memory:
        assert list(memory.session(budget_entries=256).generate("What jumps?", max_new_tokens=3))


def test_models_in_8_bit_floats_are_expanded_on_a_cpu(plain_folder: Path, tmp_path: Path) -> None:
    """As DeepSeek-V3 is published: one scale for 128 x 128 weights."""
    plain = load_file(plain_folder / "model.safetensors")
    linear = {name for name, value in plain.items() if value.ndim == 2 and "proj" in name}
    scales = {name: plain[name].abs().max() / 448 for name in linear}
    small = {name: (plain[name] / scales[name]).to(torch.float8_e4m3fn) for name in linear}
    beside = {f"{name}_scale_inv": scale[None, None] for name, scale in scales.items()}
    config = json.loads((plain_folder / "config.json").read_text())
    told = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    expanded = {name: value.float() * scales[name] for name, value in small.items()}
    for folder, weights, more in (
        ("small", {**plain, **small, **beside}, {"quantization_config": told}),
        ("expanded", {**plain, **expanded}, {}),
    ):
        (tmp_path / folder).mkdir()
        save_file(weights, tmp_path / folder / "model.safetensors", {"format": "pt"})
        (tmp_path / folder / "config.json").write_text(json.dumps({**config, **more}))
        tiny_tokenizer().save(str(tmp_path / folder / "tokenizer.json"))
    for dtype in ("float32", "bfloat16"):
        ours, reference = (load_base(str(tmp_path / name), device="cpu", dtype=dtype) for name in ("small", "expanded"))
        assert error(logits_of(ours), logits_of(reference)) < (1e-5 if dtype == "float32" else 0.03)


def test_what_cannot_be_had_quantised_is_said_in_one_line(
    saved: dict[str, Path], plain_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path | str, match: str, dtype: str = "auto") -> None:
        with pytest.raises(BaseModelError, match=match) as raised:
            load_base(str(folder), device="cpu", dtype=dtype)
        assert "\n" not in str(raised.value)

    refused(saved["torchao int8"], "is quantised by torchao as it is saved, and cannot be made int4", "int4")
    refused("reference-core", "is a core, which cannot be made int8", "int8")
    refused(saved["torchao int4"], "fails on a few tokens .*use another model, or another dtype", "bfloat16")
    unknown = write_model_folder(tmp_path / "gptq", dtype="float32")
    config = json.loads((unknown / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (unknown / "config.json").write_text(json.dumps(config))
    refused(unknown, "transformers cannot load it .*optimum")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find_spec(name, *rest)
    )
    refused(saved["bitsandbytes int8"], r"takes bitsandbytes; install with pip install 'megacontext\[quantized\]'")
    refused(plain_folder, "to have it quantised by bitsandbytes takes bitsandbytes", "int4")


@pytest.mark.parametrize("kind", ["bitsandbytes int8", "bitsandbytes nf4"])
def test_an_adapter_stays_beside_quantised_weights(kind: str, saved: dict[str, Path], tmp_path: Path) -> None:
    import peft

    def model() -> transformers.PreTrainedModel:
        return transformers.AutoModelForCausalLM.from_pretrained(saved[kind], dtype=torch.float32)

    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model(), config)
    with torch.no_grad():
        adapted.get_input_embeddings().weight[:, 0] += 1
    adapted.save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device="cpu")
    with torch.no_grad():
        own = peft.PeftModel.from_pretrained(model(), tmp_path)(torch.from_numpy(IDS.astype(np.int64))[None]).logits[0]
    assert error(logits_of(base), own) < 1e-3
    assert error(logits_of(load_base(str(saved[kind]), device="cpu")), own) > 0.1
    assert base.info.fingerprint != base_info(str(saved[kind])).fingerprint


def test_quantised_embeddings_are_refused(plain_folder: Path, tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model", dtype="float32")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BaseModelError, match=r"embed_tokens.weight is stored as I8; memory needs one of .*not quantized"
    ):
        base_info(str(folder))


def test_the_method_and_what_it_computes_in() -> None:
    assert quantization_method({}) is None
    assert quantization_method({"quantization_config": {"load_in_8bit": True}}) == "bitsandbytes"
    assert computing_dtype("auto", "torchao", "bfloat16") == "bfloat16"
    assert computing_dtype("float32", "torchao", "bfloat16") == "float32"
    assert computing_dtype("auto", "bitsandbytes", "bfloat16") == "auto"
    assert computing_dtype("int4", None, "bfloat16") == "auto"
    check_quantization(
        {"quantization_config": {"quant_method": "gptq"}}, "auto", "x"
    )  # transformers says what it lacks
    with pytest.raises(
        BaseModelError, match="quantised by 'not known yet', which transformers does not know; known are"
    ):
        check_quantization({"quantization_config": {"quant_method": "not known yet"}}, "auto", "x")


def suite_of(kind: str) -> type[BaseSuite]:
    class Suite(BaseSuite):
        # four bits multiply in bfloat16 where the processor has units for it
        tolerance = {"bitsandbytes int8": 2e-2, "bitsandbytes nf4": 4e-3}.get(kind, 5e-4)

        def close(self, ours: torch.Tensor, reference: torch.Tensor) -> None:
            if kind != "bitsandbytes int8":
                super().close(ours, reference)
            else:  # it rounds what it multiplies, too, with a scale that depends on what runs beside it
                assert error(ours, reference) < 0.05

        @pytest.fixture(autouse=True)
        def _folder(self, saved: dict[str, Path]) -> None:
            self.folder = saved[kind]

        def make(self) -> Base:
            return load_base(str(self.folder), device="cpu")

    return type(f"Test{kind.title().replace(' ', '')}", (Suite,), {})


globals().update({suite.__name__: suite for suite in map(suite_of, LIMITS)})
logging.disable_progress_bar()
