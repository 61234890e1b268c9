"""The attention that our bases run: one of torch's kernels, with a tap for queries and faster ways on a CPU.

Registered under the names in ``KERNELS`` in transformers' attention interface. Extra keyword arguments of a
model call reach it through every layer, so no state is kept anywhere.

Shape legend: B rows, Q query heads, H key-value heads, G = Q / H, T new entries, S all entries, E head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from megacontext.bases.attention_kernels import KERNELS, SCORE_KERNELS, Scores
from megacontext.bases.cache_batch import CacheBatch
from megacontext.bases.kv_cache import KVCache
from megacontext.nets.window_attention import attend_behind, attend_where

__all__ = ["causal_mask", "kernel_mask", "place_mask", "register_attention"]

# Queries scored at once: their scores against 512 keys stay in the second-level cache.
BLOCK_QUERIES = 64


def register_attention() -> None:
    """Make our attention known to transformers; doing it again is harmless."""
    for kernel, name in KERNELS.items():
        ALL_ATTENTION_FUNCTIONS.register(name, partial(_tapped_attention, kernel))


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
    kernel: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | tuple[torch.Tensor, ...],
    value: torch.Tensor | tuple[torch.Tensor, ...],
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    query_tap: KVCache | CacheBatch | None = None,
    scoring: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [B, T, Q, E] that leaves the queries of one layer with the cache.

    sliding_window, softcap, s_aux (a sink's score per query head): as transformers' models give them; query_tap: the
    cache of this forward; scoring: many whole windows at once, without a cache.
    """
    scores = Scores(float(scaling), softcap, s_aux)
    if query_tap is not None and module.layer_idx == query_tap.tap_layer:
        query_tap.record_queries(query, scores.scaling, softcap)
    if isinstance(query_tap, CacheBatch):  # each session has keys of its own
        rows = [
            _of_cache(kernel, query[row : row + 1], *own, scores, sliding_window, None, cache)
            for row, (cache, own) in enumerate(zip(query_tap.caches, zip(key, value, strict=True), strict=True))
        ]
        return torch.cat(rows), None
    assert isinstance(key, torch.Tensor)
    assert isinstance(value, torch.Tensor)
    if attention_mask is not None and not attention_mask.is_floating_point():  # nobody here makes one: as torch has it
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)[0], None
    bias_TS = None if attention_mask is None else attention_mask[0, 0]
    if query_tap is not None:
        mixed = _of_cache(kernel, query, key, value, scores, sliding_window, bias_TS, query_tap)
        return mixed.contiguous(), None  # some models take a view of it, as of transformers' own
    num_tokens = query.shape[2]
    if sliding_window is not None and sliding_window < num_tokens:
        band = causal_mask(num_tokens, 0, query.device).triu(1 - sliding_window)
        return _biased(kernel, query, key, value, scores, kernel_mask(band, query.dtype)).contiguous(), None
    if kernel in SCORE_KERNELS or scores.are_special:
        return _biased(kernel, query, key, value, scores, None).contiguous(), None
    if scoring and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _blockwise_causal(query, key, value, scores.scaling).contiguous(), None
    output: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)[0]
    return output, None


def _of_cache(
    kernel: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scores: Scores,
    window: int | None,
    bias_TS: torch.Tensor | None,
    cache: KVCache,
) -> torch.Tensor:
    """Attention [1, T, Q, E] of the entries that lie last in a cache; without a bias each sees all before it."""
    num_new, num_entries = query.shape[2], key.shape[2]
    if window is not None and num_entries > 1:
        assert cache.positions is not None, "new_cache keeps positions where layers see only so far"
        first = cache.positions.first_within(window)
        if first is None:
            bias_TS = cache.positions.bias(window, bias_TS, dtype=query.dtype, device=query.device)
        elif first:
            key, value = key[:, :, first:], value[:, :, first:]
    if kernel in SCORE_KERNELS or scores.are_special:
        return _biased(kernel, query, key, value, scores, bias_TS)
    if bias_TS is not None:
        return attend_where(query, key, value, bias_TS, scaling=scores.scaling).transpose(1, 2)
    if num_new == 1:
        return _one_query(query, key, value, scores.scaling)
    if num_entries == num_new or key.shape[-1] != value.shape[-1]:  # the parts of attend_behind are of one width
        return _causal(query, key, value, scores.scaling)
    copies = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    return attend_behind(query, *copies, scaling=scores.scaling).transpose(1, 2)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """torch's kernel as transformers calls it: bit for bit the plain model."""
    num_new, num_entries = query.shape[2], key.shape[2]
    mask = None if num_new == num_entries else causal_mask(num_new, num_entries - num_new, query.device)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous()


def _biased(
    kernel: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scores: Scores,
    bias_TS: torch.Tensor | None,
) -> torch.Tensor:
    """By a kernel that sees every score; torch's fused one knows no soft caps and no sinks, and "eager" stands in."""
    attend: Callable[..., torch.Tensor] = SCORE_KERNELS.get(kernel, SCORE_KERNELS["eager"])
    if kernel == "sdpa" and not scores.are_special and bias_TS is not None:
        return attend_where(query, key, value, bias_TS, scaling=scores.scaling).transpose(1, 2)
    return attend(query, key, value, bias_TS, scores).transpose(1, 2)


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
