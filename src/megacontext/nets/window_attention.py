"""Attention of new entries over those that are cached: among them, under a mask, or behind all of them.

torch's fused kernel knows queries and keys of one sequence, without a mask. On a CPU anything else makes it build and
read one, which costs up to half of its speed; here are the two cases that a window needs, in other ways.

Shape legend: B rows, Q query heads, H key-value heads, G = Q / H, T queries, S keys, E head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

__all__ = ["attend_behind", "attend_where"]


def attend_where(
    query_BQTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, bias_TS: Tensor, *, scaling: float
) -> Tensor:
    """Attention [B, Q, T, E] of entries that stand anywhere among the keys. Query heads that share a key head go
    through as its rows, so that keys are neither copied nor read twice.

    bias_TS: added to the scores, in the precision of the queries (a bool mask is slower): 0 where a query may look,
    -inf elsewhere.
    """
    num_rows, num_heads, num_queries, head_dim = query_BQTE.shape
    num_kv_heads = key_BHSE.shape[1]
    groups = query_BQTE.reshape(num_rows, num_kv_heads, -1, head_dim)  # [B, H, G T, E]
    bias = bias_TS.repeat(num_heads // num_kv_heads, 1)
    mixed = functional.scaled_dot_product_attention(groups, key_BHSE, value_BHSE, attn_mask=bias, scale=scaling)
    return mixed.reshape(num_rows, num_heads, num_queries, -1)


def attend_behind(query_BQTE: Tensor, key_BQSE: Tensor, value_BQSE: Tensor, *, scaling: float) -> Tensor:
    """Attention [B, Q, T, E] of the last T of S entries: each sees all before it and itself.

    On a CPU in two parts without a mask, over what was there and among the new, weighed by what each part gives away
    (Dao et al. 2022, "FlashAttention", joins its blocks so): 1.4 to 2 times as fast as with a mask.
    """
    num_queries, num_keys = query_BQTE.shape[2], key_BQSE.shape[2]
    if query_BQTE.device.type != "cpu":
        mask = causal_lower_right(num_queries, num_keys)
        return functional.scaled_dot_product_attention(query_BQTE, key_BQSE, value_BQSE, attn_mask=mask, scale=scaling)
    before = num_keys - num_queries
    parts = []
    for entries, is_causal in ((slice(0, before), False), (slice(before, num_keys), True)):
        parts.append(
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query_BQTE, key_BQSE[:, :, entries], value_BQSE[:, :, entries], 0.0, is_causal, scale=scaling
            )
        )
    (cached, cached_lse), (new, new_lse) = parts
    share_of_cached = torch.sigmoid(cached_lse - new_lse)[..., None]
    joined: Tensor = torch.lerp(new.float(), cached.float(), share_of_cached).to(new.dtype)
    return joined
