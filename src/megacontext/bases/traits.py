"""What a model must have to serve as a base, checked when it is taken: one line names the trait that is missing."""

from __future__ import annotations

from typing import Any

from megacontext.errors import BaseModelError

__all__ = ["CORE_TYPE", "check_config", "check_decoder"]

# The model_type of a folder that holds our own core instead of a transformers model.
CORE_TYPE = "megacontext_core"

# Frequencies of these depend on how long the window is: a key computed once would be wrong later.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def check_config(config: Any, name: str) -> None:
    """Raise BaseModelError when a configuration says that the model cannot serve. Works on the parsed
    ``config.json`` of transformers, before any weight is read."""
    if getattr(config, "is_encoder_decoder", False):
        raise _lacks(name, "a decoder-only architecture (it is an encoder-decoder)")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if others:
        raise _lacks(name, f"full attention in every layer (it has {', '.join(others)})")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "layer_types", None) is None and getattr(config, "use_sliding_window", True):
        raise _lacks(name, f"full attention in every layer (it has a sliding window of {window})")
    rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type in LENGTH_DEPENDENT_ROPE:
        raise _lacks(name, f"rotary frequencies that do not depend on the window's length (rope_type is {rope_type})")


def check_decoder(decoder: Any, name: str) -> None:
    """Raise BaseModelError when a loaded decoder has no rotary embedding at model level."""
    if getattr(getattr(decoder, "rotary_emb", None), "inv_freq", None) is None:
        raise _lacks(name, "a rotary embedding at model level (model.rotary_emb)")


def _lacks(name: str, trait: str) -> BaseModelError:
    return BaseModelError(f"{name}: lacks {trait}; use a Llama or Qwen family model")
