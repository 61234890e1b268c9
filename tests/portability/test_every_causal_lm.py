"""Every causal language model that transformers has, as small as its configuration lets it be: which are bases, and
that those keep a base's promises. ``data/causal_lms.json`` has what was found; docs/adding-a-base.md repeats it.

    pytest tests/portability/test_every_causal_lm.py -m slow
"""

from __future__ import annotations

import contextlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from megacontext.bases.registry import load_base
from megacontext.errors import BaseModelError
from megacontext.ports.base import Base, SupportsPatch
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.model_folder import tiny_tokenizer

pytestmark = [pytest.mark.portability, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DATA = Path(__file__).parent / "data" / "causal_lms.json"
PAGE = Path(__file__).parents[2] / "docs" / "adding-a-base.md"
FOUND: dict[str, list[str]] = json.loads(DATA.read_text())
MOST_PARAMETERS = 10_000_000
# What configurations call their sizes; each takes those that it knows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 512),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "lru_width", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 4096),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_key_value_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    "head_dim": 8,
    "rotary_dim": 4,
    "sliding_window": 24,
    "initializer_range": 0.3,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
PROMISES = [
    name
    for name in vars(BaseSuite)
    if name.startswith("test_") and "far_and_fractional" not in name and "facts" not in name
]


def small_config(model_type: str) -> transformers.PretrainedConfig:
    """Two layers, 32 wide; whatever the configuration raises where that is none of it."""
    config_class = transformers.CONFIG_MAPPING[model_type]
    known = {name for base in config_class.__mro__ for name in (*vars(base), *getattr(base, "__annotations__", {}))}
    known |= set(inspect.signature(config_class.__init__).parameters)
    sizes = {name: value for name, value in SIZES.items() if name in known or hasattr(config_class, name)}
    if "kv_lora_rank" in sizes:
        sizes = {**sizes, "num_key_value_heads": 4}
        sizes.pop("head_dim", None)
    for left_out in ((), ("head_dim",), ("bos_token_id", "eos_token_id", "pad_token_id")):
        with contextlib.suppress(Exception):  # configurations check themselves in ways of their own
            return config_class(**{name: value for name, value in sizes.items() if name not in left_out})
    raise ValueError(f"{model_type} does not take these sizes")


def small_model(model_type: str) -> transformers.PreTrainedModel | None:
    """A model with random weights; None where none can be made so small."""
    try:
        config = small_config(model_type)
        with torch.device("meta"):
            empty = transformers.AutoModelForCausalLM.from_config(config)
        if sum(parameter.numel() for parameter in empty.parameters()) > MOST_PARAMETERS:
            return None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim <= 1 or not parameter.any():
                        parameter.add_(torch.randn_like(parameter) * 0.1)
    except Exception:  # noqa: BLE001 - sizes that do not fit each other
        return None
    return model.eval()


def verdict(model_type: str, folder: Path) -> str:
    """bases, bases_without_patches, placed (keys that depend on more than distances), refused or not_made."""
    model = small_model(model_type)
    if model is None:
        return "not_made"
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    try:
        base = load_base(str(folder), device="cpu", dtype="float32")
    except BaseModelError as error:
        return "refused" if "\n" not in str(error) else "refused in many lines"

    class Suite(BaseSuite):
        def make(self) -> Base:
            return base

    suite = Suite()
    for promise in PROMISES:
        try:
            getattr(suite, promise)()
        except pytest.skip.Exception:
            continue
    try:
        suite.test_far_and_fractional_positions_keep_their_distances()
    except AssertionError:
        return "placed"
    return "bases" if isinstance(base, SupportsPatch) and base.can_patch else "bases_without_patches"


@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_a_model_is_a_base_with_all_promises_or_refused_in_one_line(model_type: str, tmp_path: Path) -> None:
    expected = [name for name, kinds in FOUND.items() if model_type in kinds]
    if not expected:
        pytest.skip("not known when data/causal_lms.json was written")
    assert verdict(model_type, tmp_path) == expected[0]


def test_the_page_lists_what_was_found() -> None:
    page = PAGE.read_text()
    for name in ("bases", "bases_without_patches", "placed"):
        assert all(f"`{kind}`" in page for kind in FOUND[name])
