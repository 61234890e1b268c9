"""What a configuration says of a model, in the terms in which bases differ: how it attends, how it rotates, how much a
window of it takes. One description serves the table of supported models, the configs of bases and their reports.

Works on a whole configuration (``whole_config``): published ones leave to their class what they do not change.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megacontext.bases.traits import embedding_scale, longest_window, text_config
from megacontext.errors import BaseModelError
from megacontext.values import reason_of, shown

__all__ = ["DTYPE_BYTES", "Traits", "describe", "describe_core", "traits_from", "whole_config"]

# Kinds whose attention rests on a learned score beside those of the entries, in all layers or in some.
SINKS = ("flint", "gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash")
NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
# How many bytes a number of each precision takes.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Traits:
    """A model in the terms in which bases differ.

    attention: ``full`` (a key head per query head), ``grouped``, ``multi-query`` (one key head for all) or ``latent``
    (DeepSeek-AI 2024, "DeepSeek-V2"); sliding_window: how many positions the ``num_sliding_layers`` layers see that do
    not see all, 0 if there are none; num_unrotated_layers: layers without rotary positions; rope: how its frequencies
    are scaled, one name or one per kind of layer; rotary_share: the part of a head that rotates; numbers_per_entry: how
    many numbers a window keeps of each entry, in all layers together.
    """

    model_type: str
    num_layers: int
    dim: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attention: str
    longest_window: int
    sliding_window: int
    num_sliding_layers: int
    num_unrotated_layers: int
    has_softcap: bool
    has_sinks: bool
    num_experts: int
    num_experts_per_token: int
    rope: str
    rotary_share: float
    has_scaled_embeddings: bool
    has_tied_embeddings: bool
    sees_images: bool
    stored_dtype: str
    numbers_per_entry: int

    def kv_bytes_per_entry(self, dtype: str) -> int:
        """Bytes that a window takes for each of its entries in this precision."""
        return self.numbers_per_entry * DTYPE_BYTES[dtype]

    @property
    def summary(self) -> str:
        """One line for people, with what is out of the ordinary."""
        heads = {
            "full": "full attention",
            "grouped": f"grouped queries {self.num_heads}:{self.num_kv_heads}",
            "multi-query": f"multi-query {self.num_heads}:1",
            "latent": "latent attention",
        }
        parts = [heads[self.attention]]
        if self.num_sliding_layers:
            parts.append(f"sliding window {self.sliding_window} in {self.num_sliding_layers} of {self.num_layers}")
        if self.num_unrotated_layers:
            parts.append(f"{self.num_unrotated_layers} of {self.num_layers} layers without positions")
        if self.num_experts:
            parts.append(f"{self.num_experts} experts, {self.num_experts_per_token} a token")
        if self.rope != "default":
            parts.append(f"rope {self.rope}")
        if self.rotary_share < 1:
            parts.append(f"{self.rotary_share:.0%} rotary")
        words = {
            "soft caps": self.has_softcap,
            "sinks": self.has_sinks,
            "scaled embeddings": self.has_scaled_embeddings,
            "text part of a vision model": self.sees_images,
        }
        return ", ".join([*parts, *(word for word, is_so in words.items() if is_so)])


def whole_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A ``config.json`` with what it leaves to its class, of a vision model what describes the part that reads text;
    imports transformers. BaseModelError for a kind that transformers does not know."""
    from transformers import AutoConfig

    if "model_type" not in config:
        raise BaseModelError(f"{name}: its configuration names no model_type; save the model again")
    try:
        whole = AutoConfig.for_model(**copy.deepcopy(dict(config)))  # it writes into what it is given
    except (ValueError, TypeError, KeyError) as error:
        raise BaseModelError(
            f"{name}: transformers cannot read a configuration of model_type {shown(config['model_type'])}: "
            f"{reason_of(error)}"
        ) from error
    text = whole.get_text_config(decoder=True)
    dtype = config.get("dtype") or config.get("torch_dtype") or text_config(dict(config)).get("torch_dtype")
    return {
        **text.to_dict(),
        "model_type": config["model_type"],
        "text_model_type": text.model_type,
        "sees_images": text is not whole,
        "tie_word_embeddings": getattr(whole, "tie_word_embeddings", False),
        "stored_dtype": str(dtype or "float32").removeprefix("torch."),
    }


def describe(config: Mapping[str, Any]) -> Traits:
    """Traits of a whole configuration."""
    num_layers, num_heads = config["num_hidden_layers"], config["num_attention_heads"]
    is_latent = bool(config.get("kv_lora_rank"))
    # GPT-NeoX has no other way, and passes over the key
    num_kv_heads = num_heads if config["model_type"] == "gpt_neox" else config.get("num_key_value_heads") or num_heads
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    longest = longest_window(dict(config)) or 0
    kinds = config.get("layer_types") or [_kind_of_all(config)] * num_layers
    window = config.get("sliding_window") or 0
    num_sliding = kinds.count("sliding_attention") if window < longest else 0
    rotated = config.get("no_rope_layers") or config.get("layer_rope_theta") or [1] * num_layers
    kept, asked = 2 * num_kv_heads * head_dim, head_dim
    if is_latent:
        head_dim = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        kept, asked = config["kv_lora_rank"] + config["qk_rope_head_dim"], head_dim
    experts = next((config[key] for key in NUM_EXPERTS if config.get(key)), 0)
    return Traits(
        model_type=config["model_type"],
        num_layers=num_layers,
        dim=config["hidden_size"],
        vocab_size=config["vocab_size"],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        attention="latent" if is_latent else _attention(num_heads, num_kv_heads),
        longest_window=longest,
        sliding_window=window if num_sliding else 0,
        num_sliding_layers=num_sliding,
        num_unrotated_layers=rotated.count(0),
        has_softcap=bool(config.get("attn_logit_softcapping") or config.get("final_logit_softcapping")),
        has_sinks=config["model_type"] in SINKS,
        num_experts=experts,
        num_experts_per_token=(config.get("num_experts_per_tok") or 0) if experts else 0,
        rope=_rope(config),
        rotary_share=float((config.get("rope_parameters") or {}).get("partial_rotary_factor") or 1.0),
        has_scaled_embeddings=embedding_scale({**config, "model_type": config.get("text_model_type")}) != 1.0
        or config.get("embedding_multiplier", 1.0) != 1.0,
        has_tied_embeddings=bool(config.get("tie_word_embeddings")),
        sees_images=bool(config.get("sees_images")),
        stored_dtype=config.get("stored_dtype", "float32"),
        # what the middle layer asks is kept too: the attention lens reads it
        numbers_per_entry=num_layers * kept + num_heads * asked,
    )


def describe_core(config: Mapping[str, Any], *, numbers_per_entry: int) -> Traits:
    """Traits of our own core, from the ``config.json`` of its folder."""
    core = config["core"]
    return Traits(
        model_type=config["model_type"],
        num_layers=core["num_layers"],
        dim=core["width"],
        vocab_size=core["vocab_size"],
        num_heads=core["num_heads"],
        num_kv_heads=core["num_kv_heads"],
        head_dim=core["head_dim"],
        attention=_attention(core["num_heads"], core["num_kv_heads"]),
        longest_window=config["max_position_embeddings"],
        sliding_window=0,
        num_sliding_layers=0,
        num_unrotated_layers=0,
        has_softcap=False,
        has_sinks=False,
        num_experts=0,
        num_experts_per_token=0,
        rope="gaussian",
        rotary_share=core["rotary_dims"] / core["head_dim"],
        has_scaled_embeddings=False,
        has_tied_embeddings=True,
        sees_images=False,
        stored_dtype=config["dtype"],
        numbers_per_entry=numbers_per_entry,
    )


def traits_from(table: Mapping[str, Any], name: str) -> Traits:
    """Traits as a file says them; BaseModelError for keys that are missing or of another kind."""
    kinds: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
    for field in dataclasses.fields(Traits):
        value = table.get(field.name)
        if type(value) is not kinds[str(field.type)]:
            raise BaseModelError(
                f"{name}: traits.{field.name} is {shown(value)}, expected {field.type}; write the config again with "
                "`megacontext port`"
            )
    return Traits(**{field.name: table[field.name] for field in dataclasses.fields(Traits)})


def _attention(num_heads: int, num_kv_heads: int) -> str:
    if num_kv_heads == num_heads:
        return "full"
    return "multi-query" if num_kv_heads == 1 else "grouped"


def _kind_of_all(config: Mapping[str, Any]) -> str:
    """Of the layers of a model whose configuration tells none apart."""
    slides = config.get("sliding_window") and config.get("use_sliding_window", True)
    return "sliding_attention" if slides else "full_attention"


def _rope(config: Mapping[str, Any]) -> str:
    """``yarn 32x``, or one such part for each kind of layer where they differ."""
    ropes = config.get("rope_parameters") or {}
    if any(isinstance(part, Mapping) for part in ropes.values()):
        of_kinds = {kind.removesuffix("_attention"): _one_rope(rope) for kind, rope in sorted(ropes.items())}
        if len(set(of_kinds.values())) == 1:
            return next(iter(of_kinds.values()))
        return ", ".join(f"{rope} ({kind} layers)" for kind, rope in of_kinds.items() if rope != "default")
    return _one_rope(ropes)


def _one_rope(rope: Mapping[str, Any]) -> str:
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if rope.get("mrope_section"):
        kind = "multi-axis" if kind in ("default", "mrope") else f"multi-axis {kind}"
    factor = rope.get("factor")
    return f"{kind} {factor:g}x" if isinstance(factor, int | float) else kind
