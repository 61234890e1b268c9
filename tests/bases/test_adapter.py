"""Adapters that peft itself made, on their bases: what they compute, what memory they share, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import megacontext
from megacontext.bases.registry import BaseHandle, base_info, load_base
from megacontext.errors import BaseMismatchError, BaseModelError
from megacontext.ports.base import Base
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder
from megacontext.testing.tiny_families import family_config, family_model

LINEAR = ["q_proj", "v_proj", "down_proj"]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    return write_model_folder(tmp_path_factory.mktemp("bases") / "plain", "llama", dtype="float32")


@pytest.fixture
def save_adapter(base_folder: Path, tmp_path: Path) -> Make:
    return lambda **options: write_adapter(tmp_path / "adapter", base_folder, **options)


def write_adapter(folder: Path, base_folder: Path, *, grows_to: int = 0, **options: Any) -> Path:
    """An adapter that changes every weight it has, as after training."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base_folder)
    if grows_to:
        model.resize_token_embeddings(grows_to, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft

        kind = options.pop("kind", peft.LoraConfig)
        adapted = peft.get_peft_model(
            model, kind(**{"task_type": "CAUSAL_LM", "target_modules": LINEAR, "r": 4, **options})
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(folder)
    return folder


def own_logits(base_folder: Path, folder: Path, ids: npt.NDArray[np.uint32], *, grows_to: int = 0) -> torch.Tensor:
    """What peft makes of the two by itself, with the adapter beside the weights."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base_folder)
    if grows_to:
        model.resize_token_embeddings(grows_to, mean_resizing=False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        import peft

        adapted = peft.PeftModel.from_pretrained(model, folder).eval()
        return adapted(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0]


def logits_of(base: Base, ids: npt.NDArray[np.uint32]) -> torch.Tensor:
    positions = np.arange(len(ids), dtype=np.float64)
    return base.forward(base.embed(ids), positions, base.new_cache(len(ids)), num_logits=len(ids))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(BaseModelError, match=match) as raised:
        load_base(str(folder), device="cpu")
    assert "\n" not in str(raised.value)


IDS = np.array([1, 3, 40, 200, 333, 500, 511, 3], dtype=np.uint32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"use_dora": True},
        {"layers_to_transform": [1], "lora_bias": True},
    ],
    ids=["lora", "rslora", "dora", "one-layer"],
)
def test_an_adapted_base_is_what_peft_makes_of_the_two(
    save_adapter: Make, base_folder: Path, options: dict[str, Any]
) -> None:
    folder = save_adapter(**options)
    base = load_base(str(folder), device="cpu")
    plain = load_base(str(base_folder), device="cpu")
    torch.testing.assert_close(logits_of(base, IDS), own_logits(base_folder, folder, IDS), atol=1e-4, rtol=1e-4)
    assert (logits_of(base, IDS) - logits_of(plain, IDS)).abs().max() > 0.1
    assert base.info.fingerprint == plain.info.fingerprint
    assert base.info.name == str(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [3, 500]},
        {"trainable_token_indices": {"embed_tokens": [3, 511]}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"], "use_rslora": True, "alpha_pattern": {"embed_tokens": 5}},
    ],
    ids=["table", "table-and-head", "tokens", "named-tokens", "low-rank", "low-rank-scaled"],
)
def test_trained_embeddings_are_read_and_are_another_space(
    save_adapter: Make, base_folder: Path, options: dict[str, Any]
) -> None:
    folder = save_adapter(**options)
    handle = BaseHandle(str(folder), device="cpu")
    base = handle.load()
    every = np.arange(512, dtype=np.uint32)
    np.testing.assert_allclose(handle.embeddings.rows(every), base.embed(every).numpy(), atol=1e-6)
    several = every[[3, 400, 77, 5, 0, 511]].reshape(2, 3)  # as gists of several vectors are made of
    expected = base.embed(several.ravel()).numpy().reshape(2, 3, -1)
    np.testing.assert_allclose(handle.embeddings.rows(several), expected, atol=1e-6)
    assert handle.info.fingerprint != base_info(str(base_folder)).fingerprint
    torch.testing.assert_close(logits_of(base, IDS), own_logits(base_folder, folder, IDS), atol=1e-4, rtol=1e-4)
    one_more = load_file(handle._adapter.weights)  # type: ignore[union-attr]
    changed = next(name for name in one_more if "embed_tokens" in name)
    one_more[changed][0, 0] += 1
    save_file(one_more, folder / "adapter_model.safetensors")
    assert base_info(str(folder)).fingerprint != handle.info.fingerprint


def test_a_vocabulary_that_grew_comes_with_its_tokenizer(save_adapter: Make, base_folder: Path) -> None:
    folder = save_adapter(grows_to=520, modules_to_save=["embed_tokens", "lm_head"])
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(["<|new|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    handle = BaseHandle(str(folder), device="cpu")
    base = handle.load()
    ids = np.array([3, 511, 519, 4], dtype=np.uint32)
    assert handle.info.vocab_size == base.info.vocab_size == 520
    assert handle.codec.vocab_size == BaseHandle(str(base_folder)).codec.vocab_size + 1
    torch.testing.assert_close(
        logits_of(base, ids), own_logits(base_folder, folder, ids, grows_to=520), atol=1e-4, rtol=1e-4
    )


def test_a_low_rank_change_of_embeddings_is_merged_where_no_output_layer_shares_them(tmp_path: Path) -> None:
    plain = tmp_path / "untied"
    family_model(family_config("gemma2", vocab_size=512, tie_word_embeddings=False)).save_pretrained(plain)
    tiny_tokenizer().save(str(plain / "tokenizer.json"))
    folder = write_adapter(tmp_path / "adapter", plain, target_modules=["q_proj", "embed_tokens"])
    handle = BaseHandle(str(folder), device="cpu")
    base = handle.load()
    np.testing.assert_allclose(handle.embeddings.rows(IDS), base.embed(IDS).numpy(), atol=1e-5)
    torch.testing.assert_close(logits_of(base, IDS), own_logits(plain, folder, IDS), atol=1e-4, rtol=1e-4)


def test_a_tokenizer_that_was_only_saved_again_changes_nothing(save_adapter: Make, base_folder: Path) -> None:
    folder = save_adapter()
    spec = json.loads((base_folder / "tokenizer.json").read_text())
    spec["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(spec, indent=1))
    assert base_info(str(folder)).fingerprint == base_info(str(base_folder)).fingerprint


def test_one_memory_serves_a_base_with_and_without_its_adapter(
    save_adapter: Make, base_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "notes.mc"
    text = "The quick brown fox jumps over the lazy dog. " * 30
    with megacontext.open(path, base=str(base_folder), device="cpu", create=True) as memory:
        memory.append_text(text)
    (adapter := save_adapter()).rename(tmp_path / "other")
    with megacontext.open(path, base=str(tmp_path / "other"), device="cpu") as memory:
        assert memory.text(0, memory.num_tokens) == text
        events = list(memory.session(budget_entries=256).generate("What jumps?", max_new_tokens=3))
        assert events
    save_adapter(modules_to_save=["embed_tokens"])
    with pytest.raises(BaseMismatchError):
        megacontext.open(path, base=str(adapter), device="cpu")


def test_facts_of_an_adapted_base_need_neither_torch_nor_peft(save_adapter: Make) -> None:
    folder = save_adapter(trainable_token_indices=[3, 500])
    program = (
        "import sys; from megacontext.bases.registry import BaseHandle; h = BaseHandle(sys.argv[1]);"
        "h.info, h.embeddings.rows(h.codec.encode('fox').token_ids);"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_base_may_stand_beside_its_adapter(save_adapter: Make, base_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter()
    shutil.copytree(base_folder, tmp_path / "its base")
    edit(folder / "adapter_config.json", base_model_name_or_path="../its base")
    assert base_info(str(folder)).fingerprint == base_info(str(base_folder)).fingerprint


def test_adapters_that_cannot_serve_are_refused_in_one_line(
    save_adapter: Make, base_folder: Path, tmp_path: Path
) -> None:
    folder = save_adapter()
    config = folder / "adapter_config.json"
    good = config.read_text()
    for changes, match in (
        (
            {"base_model_name_or_path": "/not/there"},
            "is an adapter of /not/there, which cannot be had .*no such folder",
        ),
        ({"base_model_name_or_path": None}, "names no base; write"),
        ({"base_model_name_or_path": str(folder)}, "which is one, too; merge that one"),
        ({"base_model_name_or_path": "reference-core"}, "a core; cores take no adapters"),
        ({"peft_type": "PREFIX_TUNING"}, "of kind PREFIX_TUNING, which does more than change weights"),
        ({"task_type": "SEQ_CLS"}, "an adapter for SEQ_CLS; a base needs one for causal"),
        ({"target_modules": ["nonesuch"]}, "does not fit its base .*nonesuch"),
        ({"r": 8}, "does not fit its base .*size mismatch"),
        (
            {"target_modules": ["q_proj", "v_proj"]},
            "has 4 weights that its base .* has no place for, first .*down_proj",
        ),
        ({"target_modules": [*LINEAR, "k_proj"]}, "lacks 4 weights that its base .* needs, first .*k_proj"),
    ):
        edit(config, **changes)
        refused(folder, match)
        config.write_text(good)
    config.write_text("[]")
    refused(folder, "not readable as JSON")
    config.write_text(good)
    other = write_model_folder(tmp_path / "other", "qwen3", dtype="float32")
    edit(config, base_model_name_or_path=str(other), target_modules=["no_such_layer"])
    refused(folder, "use the base that it was trained on")
    config.write_text(good)
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:100])
    refused(folder, "not a readable safetensors file")
    weights.write_bytes(content[:-16])
    refused(folder, "adapter_model.safetensors: is cut off before the end of .*; copy or save")
    weights.unlink()
    refused(folder, "has no weights")
    torch.save({}, folder / "adapter_model.bin")
    refused(folder, "a pickle, which can run any code and is not read; save it as safetensors")


def test_embeddings_that_change_in_an_unknown_way_are_refused(save_adapter: Make) -> None:
    refused(save_adapter(target_modules=["q_proj", "embed_tokens"], use_dora=True), "magnitude.*merge it into its base")


def test_without_peft_the_package_to_install_is_named(save_adapter: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_adapter()
    monkeypatch.setitem(sys.modules, "peft", None)  # as Python marks what cannot be imported
    refused(folder, r"peft is not installed; install it with pip install 'megacontext\[lora\]'")


class TestAdaptedBase(BaseSuite):
    """An adapted base keeps every promise of a base."""

    @pytest.fixture(autouse=True)
    def _folder(self, save_adapter: Make) -> None:
        self.folder = save_adapter()

    def make(self) -> Base:
        return load_base(str(self.folder), device="cpu")
