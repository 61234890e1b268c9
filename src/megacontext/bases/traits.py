"""What a model must have to serve as a base, checked when it is taken: one line names the trait that is missing and
what would be needed. Differences between families are data here, no code elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

from megacontext.bases.refusals import refusal
from megacontext.errors import BaseModelError

__all__ = ["CORE_TYPE", "check_config", "check_decoder", "embedding_scale", "longest_window", "text_config"]

# The model_type of a folder that holds our own core instead of a transformers model.
CORE_TYPE = "megacontext_core"

LAYERS = ("full_attention", "sliding_attention")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "su", "mrope")
# Families whose embedding module multiplies what the table holds by the root of its width.
ROOT_SCALED_EMBEDDINGS = ("gemma", "gemma2", "gemma3", "gemma3_text", "vaultgemma")
# How others call what their embedding module multiplies by.
SCALED_EMBEDDINGS = {"minicpm3": "scale_emb"}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """What of a ``config.json`` describes the model that reads text: all of it, or the tower of a vision model with
    what its keys leave to the whole."""
    tower = config.get("text_config")
    if not isinstance(tower, dict):
        return config
    return {**{key: value for key, value in config.items() if key != "text_config"}, **tower}


def check_config(config: dict[str, Any], name: str) -> None:
    """Raise BaseModelError when a configuration says that the model cannot serve. Works on a ``config.json`` (see
    ``text_config``) or ``to_dict()`` of transformers' configuration, before any weight is read."""
    if config.get("is_encoder_decoder"):
        raise BaseModelError(
            f"{name}: is an encoder-decoder; a base needs one decoder that reads history and question alike: "
            "use a decoder-only model"
        )
    found = refusal(config)
    if found is not None:
        raise BaseModelError(f"{name}: has {found[0]}; a base needs {found[1]}: use another model")
    others = sorted({str(kind) for kind in config.get("layer_types") or ()} - set(LAYERS))
    if others:
        raise BaseModelError(
            f"{name}: has layers of {', '.join(others)}; a base needs keys and values of every entry in every layer, "
            f"which those of {' and '.join(LAYERS)} keep: use a model that has only these"
        )
    if config.get("num_kv_shared_layers"):
        raise BaseModelError(
            f"{name}: has {config['num_kv_shared_layers']} layers that read the keys of others; a base needs keys and "
            "values of every entry in every layer: use another model"
        )
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ROPE_TYPES:
            raise BaseModelError(
                f"{name}: rotates by rope_type {kind}, which is not known; known are {', '.join(ROPE_TYPES)}: "
                "use another model"
            )


def check_decoder(decoder: Any, name: str) -> None:
    """Raise BaseModelError when a loaded decoder has no rotary embedding at model level."""
    if getattr(decoder, "rotary_emb", None) is None:
        raise BaseModelError(
            f"{name}: lacks a rotary embedding at model level (model.rotary_emb); a base needs positions that can be "
            "given: use a model with rotary positions"
        )


def longest_window(config: dict[str, Any]) -> int | None:
    """The longest window that a model was made for, in entries, scaled frequencies taken into account; None if its
    configuration does not say."""
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int):
        return None
    for rope in _ropes(config):
        factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
        kind = rope.get("rope_type", rope.get("type"))
        if kind == "dynamic":
            original = config["max_position_embeddings"]
        if kind == "llama3":  # its factor is that of the slowest frequencies, not of the window
            continue
        if isinstance(factor, int | float) and isinstance(original, int):
            longest = max(longest, int(factor * original))
    return longest


def embedding_scale(config: dict[str, Any]) -> float:
    """What the model's embedding module multiplies the rows of its table by."""
    if config.get("model_type") in ROOT_SCALED_EMBEDDINGS:
        return math.sqrt(config["hidden_size"])
    return float(config.get(SCALED_EMBEDDINGS.get(str(config.get("model_type")), ""), 1.0))


def _ropes(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Every description of rotary frequencies: one, or one per kind of layer; older configurations say rope_scaling."""
    ropes = [config[key] for key in ("rope_parameters", "rope_scaling") if isinstance(config.get(key), dict)]
    return [part for rope in ropes for part in [*filter(_is_table, rope.values())] or [rope]]


def _is_table(value: object) -> bool:
    return isinstance(value, dict)
