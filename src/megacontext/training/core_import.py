"""A core that begins with the weights of a plain Qwen3 model: no step of that model's training is lost.

Both are pre-norm decoders with grouped-query attention, QK-norm, SwiGLU and rotated halves. What differs:

- the core keeps the last dimension of every head for the bias of gist keys, so the slowest of the rotary pairs gives it
  up: one half of that pair stays as a dimension free of position, the other is lost;
- token shift begins silent, and gists begin unread: without them the core says what the model said, but for that pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import isclose
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.norm import NORM_EPSILON
from megacontext.nets.shapes import CoreConfig
from megacontext.training.core_export import load_masters
from megacontext.training.finite import check_finite
from megacontext.values import number, shown, whole_number

__all__ = ["core_config_of", "load_model", "masters_of", "read_config"]

LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.q_proj.weight": "self_attn.q_proj.weight",
    "attention.k_proj.weight": "self_attn.k_proj.weight",
    "attention.v_proj.weight": "self_attn.v_proj.weight",
    "attention.o_proj.weight": "self_attn.o_proj.weight",
    "attention.q_gain": "self_attn.q_norm.weight",
    "attention.k_gain": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
SHAPE_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
ROTATED = ("attention.q_proj.weight", "attention.k_proj.weight", "attention.q_gain", "attention.k_gain")


def read_config(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself. InvalidValueError if it says nothing, CorruptionError if it is damaged."""
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidValueError(f"{folder} holds no config.json; give a folder with a model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptionError(f"{path} is no JSON ({error}); take another copy") from error
    if not isinstance(config, dict):
        raise CorruptionError(f"{path} holds {shown(config)}; take another copy")
    return config


def core_config_of(folder: Path) -> CoreConfig:
    """The shape of the core that a model folder's weights fit.

    Raises InvalidValueError if it holds another architecture, or one with traits that the core lacks.
    """
    path, config = folder / "config.json", read_config(folder)
    if config.get("model_type") != "qwen3":
        raise InvalidValueError(f"{folder} holds a {config.get('model_type')!r} model; only 'qwen3' becomes a core")
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta")}
    expected = {
        "tie_word_embeddings": (config.get("tie_word_embeddings"), False),
        "hidden_act": (config.get("hidden_act"), "silu"),
        "rms_norm_eps": (config.get("rms_norm_eps"), NORM_EPSILON),
        "rope_type": (rope.get("rope_type", "default"), "default"),
    }
    for name, (given, needed) in expected.items():
        if given != needed:
            raise InvalidValueError(f"{path}: {name} is {given!r}; a core can only begin with {needed!r}")
    for name in SHAPE_KEYS:
        whole_number(f"{path}: {name}", config.get(name), least=1)
    number(f"{path}: rope_theta", rope.get("rope_theta"), above=1)
    head_dim, num_pairs = config["head_dim"], config["head_dim"] // 2
    return CoreConfig(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=head_dim,
        mlp_width=config["intermediate_size"],
        rotary_dims=head_dim - 2,
        rotary_base=rope["rope_theta"] ** ((num_pairs - 1) / num_pairs),  # the pairs that stay keep their frequencies
        max_positions=config["max_position_embeddings"],
    )


def load_model(core: Core, folder: Path, *, gist_bias: float = 0.0) -> None:
    """Give a core the weights of a Qwen3 model folder. gist_bias: nats by which gist keys start off.

    A core may learn a factor on sigma, and turn its slowest pairs more slowly (`num_slow_bands`): the model turned them
    little. The others keep their frequencies, which takes another rotary base.

    Raises InvalidValueError for another architecture, another shape or missing tensors, CorruptionError for a damaged
    file.
    """
    config = core_config_of(folder)
    num_pairs, num_slow = config.rotary_dims // 2, core.config.num_slow_bands
    config = replace(
        config,
        learns_sigma=core.config.learns_sigma,
        num_slow_bands=num_slow,
        rotary_base=config.rotary_base ** ((num_pairs - num_slow) / num_pairs),
    )
    for name, needed in asdict(config).items():
        given = getattr(core.config, name)
        if name != "max_positions" and given != needed and not (isinstance(given, float) and isclose(given, needed)):
            raise InvalidValueError(f"{name} is {given}, but weights of {folder} need {needed}; change [model] to that")
    try:
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise InvalidValueError(
            f"{folder} holds no model.safetensors; give a folder with weights in one file"
        ) from error
    except SafetensorError as error:
        raise CorruptionError(f"{folder / 'model.safetensors'} is damaged ({error}); take another copy") from error
    check_finite(weights, folder / "model.safetensors")
    load_masters(core, {**dict(core.named_parameters()), **masters_of(weights, config)}, prefix="")
    with torch.no_grad():
        for name, weight in core.named_parameters():
            if name.endswith("gist_bias"):
                weight.fill_(gist_bias)


def masters_of(weights: Mapping[str, Tensor], config: CoreConfig) -> dict[str, Tensor]:
    """The core's float32 weights, by name, that a Qwen3 model's tensors give; raises InvalidValueError if one lacks."""
    names = {"embed_tokens.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    names["head.weight"] = "lm_head.weight"
    for layer in range(config.num_layers):
        for ours, theirs in LAYER_NAMES.items():
            names[f"layers.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    missing = [theirs for theirs in names.values() if theirs not in weights]
    if missing:
        raise InvalidValueError(f"the model lacks {missing[0]}; give a whole Qwen3 model")
    masters = {ours: weights[theirs].float() for ours, theirs in names.items()}
    half = config.head_dim // 2
    order = [*range(half - 1), *range(half, 2 * half - 1), half - 1, 2 * half - 1]
    for name, master in masters.items():
        if name.endswith(ROTATED):
            heads = master.view(-1, config.head_dim, *master.shape[1:])
            masters[name] = heads[:, order].reshape(master.shape)
    return masters
