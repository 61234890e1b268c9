"""What a model makes of tokens by transformers alone: its own attention, its own positions, no cache.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from megacontext.bases.rotary import ExplicitRotary

__all__ = ["plain_logits"]

# The one that every model has: transformers' fused attention knows no soft caps and no sinks.
OWN_ATTENTION = "eager"


def plain_logits(model: Any, ids_1T: torch.Tensor, *, ours: str) -> torch.Tensor:
    """Float32 logits [T, V]. model: whose rotary module may be an ``ExplicitRotary``; ours: the attention to put back.

    The model's own attention and rotary module stand in its place meanwhile: not for threads that share the model.
    """
    decoder = model.get_decoder()
    rotary = decoder.rotary_emb
    model.set_attn_implementation(OWN_ATTENTION)
    try:
        if isinstance(rotary, ExplicitRotary):
            decoder.rotary_emb = rotary.original
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    finally:
        decoder.rotary_emb = rotary
        model.set_attn_implementation(ours)
    return logits
