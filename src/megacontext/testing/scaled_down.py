"""Small models with exactly the traits of large ones: a published configuration with its sizes shrunk and everything
else, as far as the mathematics depends on it, as it is."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import transformers

from megacontext.bases.profiles import BaseProfile
from megacontext.testing.tiny_families import FAMILIES, SLIDING_WINDOW, VOCAB_SIZE

__all__ = ["scaled_down"]

HEAD_DIM = 16
MOST_GROUPED = 4  # query heads per key head
NUM_EXPERTS = 4
MOST_LAYERS = 6  # the longest pattern of layer kinds that is published (Gemma 3)
_LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_VISION = {
    "qwen2_5_vl": {"vision_config": FAMILIES["qwen2_5_vl"][1]["vision_config"]},
    "qwen3_vl": {"vision_config": FAMILIES["qwen3_vl"][1]["vision_config"]},
    "llava": {"vision_config": FAMILIES["llava"][1]["vision_config"], "image_token_index": VOCAB_SIZE - 1},
    "gemma3": {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
}


def scaled_down(profile: BaseProfile) -> transformers.PretrainedConfig:
    """A configuration of a few thousand parameters that has the traits of a shipped one."""
    config = copy.deepcopy(dict(profile.config))
    if "text_config" in config:
        config["text_config"] = _shrunk(config["text_config"], profile)
        config |= {**_VISION[profile.traits.model_type], **_IDS}
    else:
        config = _shrunk(config, profile)
    whole: transformers.PretrainedConfig = transformers.AutoConfig.for_model(**config)
    return whole


def _shrunk(config: dict[str, Any], profile: BaseProfile) -> dict[str, Any]:
    traits = profile.traits
    num_kv_heads = 1 if traits.attention == "multi-query" else 2
    num_heads = num_kv_heads * min(MOST_GROUPED, traits.num_heads // traits.num_kv_heads)
    if traits.attention in ("full", "latent"):
        num_heads = num_kv_heads = 4
    num_layers = _num_layers(config, profile)
    sizes: dict[str, Any] = {
        **_IDS,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": num_heads * HEAD_DIM,
        "intermediate_size": 64,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "initializer_range": 0.3,
        "max_position_embeddings": traits.longest_window if "max_position_embeddings" in config else None,
    }
    known = {
        "head_dim": HEAD_DIM,
        "query_pre_attn_scalar": config.get("query_pre_attn_scalar", 0) * HEAD_DIM // traits.head_dim,
        "moe_intermediate_size": 32,
        "num_experts": NUM_EXPERTS,
        "num_local_experts": NUM_EXPERTS,
        "n_routed_experts": NUM_EXPERTS,
        "num_experts_per_tok": min(2, traits.num_experts_per_token),
        "n_group": min(2, config.get("n_group") or 1),
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 24 if config.get("q_lora_rank") else None,
        "max_window_layers": num_layers,
        **_LATENT,
    }
    sizes |= {key: value for key, value in known.items() if key in config}
    for key in ("layer_types", "no_rope_layers"):
        if key in config:
            sizes[key] = config[key][:num_layers]
    if traits.num_sliding_layers:
        sizes["sliding_window"] = SLIDING_WINDOW
    pairs = int(HEAD_DIM * traits.rotary_share) // 2
    if config.get("rope_scaling"):
        sizes["rope_scaling"] = _rope(config["rope_scaling"], pairs)
    return {**config, **{key: value for key, value in sizes.items() if key != "max_position_embeddings" or value}}


def _num_layers(config: dict[str, Any], profile: BaseProfile) -> int:
    """As few as show every kind of layer."""
    kinds = config.get("layer_types") or config.get("no_rope_layers")
    if kinds:
        return max([2, *(int(kinds.index(kind)) + 1 for kind in set(kinds))])
    if profile.traits.num_sliding_layers not in (0, profile.traits.num_layers):
        return MOST_LAYERS
    return 3 if profile.traits.attention == "latent" else 2


def _rope(rope: dict[str, Any], pairs: int) -> dict[str, Any]:
    shrunk = dict(rope)
    for key in ("short_factor", "long_factor"):
        if key in rope:
            shrunk[key] = [rope[key][n * len(rope[key]) // pairs] for n in range(pairs)]
    if "mrope_section" in rope:
        shrunk["mrope_section"] = _split(pairs, rope["mrope_section"])
    return shrunk


def _split(total: int, shares: Sequence[int]) -> list[int]:
    """Whole numbers that add up to ``total``, in these proportions."""
    borders = [round(total * part / sum(shares)) for part in itertools.accumulate(shares, initial=0)]
    return [stop - start for start, stop in itertools.pairwise(borders)]
