"""The attention that our bases run: transformers' own, with a tap for queries and two faster ways on a CPU.

Registered under ``ATTENTION_NAME`` in transformers' attention interface. Extra keyword arguments of a model call reach
it through every layer, so no state is kept anywhere.

Shape legend: B rows, Q query heads, H key-value heads, G = Q / H, T new entries, S all entries, E head dimension.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from megacontext.bases.cache_batch import CacheBatch
from megacontext.bases.kv_cache import KVCache
from megacontext.nets.window_attention import attend_behind, attend_where

__all__ = ["ATTENTION_NAME", "causal_mask", "kernel_mask", "place_mask", "register_attention"]

ATTENTION_NAME = "megacontext_tapped_sdpa"
# Queries scored at once: their scores against 512 keys stay in the second-level cache.
BLOCK_QUERIES = 64


def register_attention() -> None:
    """Make ``ATTENTION_NAME`` known to transformers; doing it again is harmless."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _tapped_attention)


def causal_mask(num_new: int, num_cached: int, device: torch.device) -> torch.Tensor:
    """True [T, S] where a new entry may look."""
    ones = torch.ones(num_new, num_cached + num_new, dtype=torch.bool, device=device)
    return ones.tril(num_cached)


def place_mask(places_S: torch.Tensor, num_new: int) -> torch.Tensor:
    """True [T, S] where one of the ``num_new`` entries that lie last may look: at its own place in the window and all
    before. places_S: where in the window the entry of each slot stands."""
    return places_S[None, :] <= places_S[len(places_S) - num_new :, None]


def kernel_mask(may_look_TS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as the biases of ``attend_where``, which takes keys and values as they lie: with a bool mask they would
    be copied for every query head."""
    return torch.zeros_like(may_look_TS, dtype=dtype).masked_fill_(~may_look_TS, -math.inf)


def _tapped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | tuple[torch.Tensor, ...],
    value: torch.Tensor | tuple[torch.Tensor, ...],
    attention_mask: torch.Tensor | None,
    *,
    query_tap: KVCache | CacheBatch | None = None,
    scoring: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' scaled-dot-product attention that leaves the queries of one layer with the cache.

    query_tap: the cache of this forward; scoring: many whole windows at once, without a cache.
    """
    if query_tap is not None and module.layer_idx == query_tap.tap_layer:
        query_tap.record_queries(query, float(kwargs["scaling"]))
    if isinstance(key, tuple) or isinstance(value, tuple):  # a batch of sessions: each has keys of its own
        rows = [
            _one_query(query[row : row + 1], *own, float(kwargs["scaling"]))
            for row, own in enumerate(zip(key, value, strict=True))
        ]
        return torch.cat(rows), None
    if query.shape[2] == 1 and attention_mask is None:
        return _one_query(query, key, value, float(kwargs["scaling"])), None
    if attention_mask is not None and attention_mask.is_floating_point():
        placed = attend_where(query, key, value, attention_mask[0, 0], scaling=float(kwargs["scaling"]))
        return placed.transpose(1, 2), None
    if scoring and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _blockwise_causal(query, key, value, float(kwargs["scaling"])), None
    if attention_mask is None and key.shape[2] > query.shape[2]:
        copies = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
        return attend_behind(query, *copies, scaling=float(kwargs["scaling"])).transpose(1, 2), None
    output: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0]
    return output, None


def _one_query(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Decoding: query heads that share a key head go through as its rows, which reads the keys once instead of once
    per query head (on a CPU in bfloat16, six times as fast)."""
    num_rows, num_query_heads, _, head_dim = query.shape
    grouped = query.reshape(num_rows, key.shape[1], -1, head_dim)
    output = nn.functional.scaled_dot_product_attention(grouped, key, value, scale=scaling)
    return output.reshape(num_rows, 1, num_query_heads, value.shape[-1])


def _blockwise_causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention [B, T, Q, E] of whole windows, one block of queries after another: plain matrix products, which
    keep bfloat16 units busier than torch's fused kernel for CPUs does (1.5 times as fast at T = 512)."""
    num_rows, num_query_heads, num_tokens, head_dim = query.shape
    num_heads = key.shape[1]
    groups = query.reshape(num_rows * num_heads, -1, num_tokens, head_dim)  # [BH, G, T, E]
    keys = key.transpose(2, 3).reshape(num_rows * num_heads, head_dim, num_tokens)
    values = value.reshape(num_rows * num_heads, num_tokens, -1)
    future = torch.full((BLOCK_QUERIES, BLOCK_QUERIES), -math.inf).triu_(1)
    outputs = []
    for start in range(0, num_tokens, BLOCK_QUERIES):
        stop = min(start + BLOCK_QUERIES, num_tokens)
        size = stop - start
        block = groups[:, :, start:stop].reshape(num_rows * num_heads, -1, head_dim)  # [BH, G * size, E]
        scores = torch.bmm(block, keys[:, :, :stop]).float().unflatten(1, (-1, size)).mul_(scaling)  # type: ignore[no-untyped-call]
        scores[..., start:] += future[:size, :size]
        weights = scores.softmax(-1).to(value.dtype).flatten(1, 2)
        outputs.append(torch.bmm(weights, values[:, :stop]).view(num_rows, num_query_heads, size, -1))
    return torch.cat(outputs, dim=2).transpose(1, 2)
