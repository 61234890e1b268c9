"""What a model makes of tokens by transformers alone: its own attention, its own positions, no cache.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["plain_logits"]

# The one that every model has: transformers' fused attention knows no soft caps and no sinks.
OWN_ATTENTION = "eager"


def plain_logits(model: Any, ids_1T: torch.Tensor, *, ours: str) -> torch.Tensor:
    """Float32 logits [T, V]. model: may be taken over by a base, whose rotary modules pass on to the model's own here;
    ours: the attention to put back; the model's own stands in its place meanwhile: not for threads that share a model.
    """
    model.set_attn_implementation(OWN_ATTENTION)
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    finally:
        model.set_attn_implementation(ours)
    return logits
