"""Kernels that see every score, for what torch's fused attention does not know: soft caps (Gemma 2) and sinks, a share
of attention that goes nowhere (GPT-OSS).

``eager`` is the formula itself, a block of queries after another; ``flex`` hands it to torch's compiler, which makes
one fused kernel of it on a GPU and runs the formula on a CPU.

Shape legend: B rows, Q query heads, H key-value heads, G = Q / H, T new entries, S all entries, E head dimension.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["KERNELS", "SCORE_KERNELS", "Scores"]

# And how transformers knows our attention with each: names of its own kernels are looked at for what a model promises.
KERNELS = {"sdpa": "megacontext_fused", "eager": "megacontext_formula", "flex": "megacontext_compiled"}
# Scores held at once, in float32: 64 MiB.
BLOCK_SCORES = 1 << 24


@dataclass(frozen=True)
class Scores:
    """How a model makes weights of products: scaled, capped to (-softcap, softcap) by a tanh, and shared with a sink
    whose score per query head is ``sinks_Q``."""

    scaling: float
    softcap: float | None = None
    sinks_Q: torch.Tensor | None = None  # noqa: N815 - shape suffix

    @property
    def are_special(self) -> bool:
        return self.softcap is not None or self.sinks_Q is not None


def attend_eagerly(
    query_BQTE: torch.Tensor,
    key_BHSE: torch.Tensor,
    value_BHSE: torch.Tensor,
    bias_TS: torch.Tensor | None,
    scores: Scores,
) -> torch.Tensor:
    """Attention [B, Q, T, E] by the formula, its softmax in float32. bias_TS: added to the scores (-inf where an entry
    may not look); None: each of the last T entries sees all before it and itself."""
    num_rows, num_heads, num_queries, _ = query_BQTE.shape
    num_kv_heads, num_keys = key_BHSE.shape[1:3]
    groups = query_BQTE.reshape(num_rows, num_kv_heads, -1, num_queries, query_BQTE.shape[-1])
    keys = key_BHSE[:, :, None].transpose(-1, -2)
    step = max(1, BLOCK_SCORES // (num_rows * num_heads * num_keys))
    outputs = []
    for first in range(0, num_queries, step):
        stop = min(first + step, num_queries)
        logits = torch.matmul(groups[..., first:stop, :], keys).float() * scores.scaling  # [B, H, G, t, S]
        if scores.softcap is not None:
            logits = torch.tanh(logits / scores.softcap) * scores.softcap
        if bias_TS is not None:
            logits = logits + bias_TS[first:stop].float()
        elif num_queries > 1:
            may_look = torch.ones(stop - first, num_keys, dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(~may_look.tril(num_keys - num_queries + first), -math.inf)
        if scores.sinks_Q is None:
            weights = logits.softmax(-1)
        else:
            sinks = scores.sinks_Q.float().reshape(1, num_kv_heads, -1, 1, 1).expand(*logits.shape[:-1], 1)
            weights = torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]
        outputs.append(torch.matmul(weights.to(value_BHSE.dtype), value_BHSE[:, :, None]))
    return torch.cat(outputs, dim=-2).reshape(num_rows, num_heads, num_queries, -1)


def attend_flexibly(
    query_BQTE: torch.Tensor,
    key_BHSE: torch.Tensor,
    value_BHSE: torch.Tensor,
    bias_TS: torch.Tensor | None,
    scores: Scores,
) -> torch.Tensor:
    """The same by torch's flex attention (Dong et al. 2024, "Flex Attention: a programming model for generating
    optimized attention kernels")."""
    from torch.nn.attention.flex_attention import AuxRequest

    num_behind = key_BHSE.shape[2] - query_BQTE.shape[2]
    bias = None if bias_TS is None else bias_TS.float()

    def changed(
        score: torch.Tensor, row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        if scores.softcap is not None:
            score = torch.tanh(score / scores.softcap) * scores.softcap
        if bias is not None:
            return score + bias[query, key]
        return torch.where(key <= query + num_behind, score, -math.inf)

    attend = _flex(query_BQTE.device.type)
    is_grouped = query_BQTE.shape[1] != key_BHSE.shape[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*flex_attention called without torch.compile.*")
        mixed, beside = attend(
            query_BQTE,
            key_BHSE,
            value_BHSE,
            score_mod=changed,
            scale=scores.scaling,
            enable_gqa=is_grouped,
            return_aux=AuxRequest(lse=True),
        )
    if scores.sinks_Q is None:
        return mixed  # type: ignore[no-any-return]
    kept = torch.sigmoid(beside.lse.float() - scores.sinks_Q.float()[None, :, None])
    return (mixed * kept[..., None]).to(mixed.dtype)  # type: ignore[no-any-return]


@functools.cache
def _flex(device_type: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend, dynamic=True) if device_type == "cuda" else attend


SCORE_KERNELS: dict[str, Callable[..., torch.Tensor]] = {"eager": attend_eagerly, "flex": attend_flexibly}
