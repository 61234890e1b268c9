from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from megacontext.nets.window_attention import attend_behind, attend_where


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("num_heads", [2, 6])
def test_entries_attend_where_their_mask_lets_them(dtype, tolerance, num_heads):
    torch.manual_seed(0)
    query = torch.randn(2, num_heads, 5, 16, dtype=dtype)
    key, value = torch.randn(2, 2, 2, 40, 16, dtype=dtype).unbind()
    may_look = torch.rand(5, 40) > 0.4
    may_look[:, 0] = True
    bias = torch.zeros(5, 40, dtype=dtype).masked_fill(~may_look, -math.inf)
    copies = (part.repeat_interleave(num_heads // 2, 1).float() for part in (key, value))
    expected = functional.scaled_dot_product_attention(query.float(), *copies, attn_mask=may_look, scale=0.3)
    ours = attend_where(query, key, value, bias, scaling=0.3)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(2, 3), (7, 40), (33, 34)])
def test_the_last_entries_see_all_before_them(dtype, tolerance, num_queries, num_keys):
    torch.manual_seed(0)
    query = torch.randn(2, 3, num_queries, 16, dtype=dtype)
    key, value = torch.randn(2, 2, 3, num_keys, 16, dtype=dtype).unbind()
    may_look = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    expected = functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=may_look, scale=0.3
    )
    ours = attend_behind(query, key, value, scaling=0.3)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, atol=tolerance, rtol=tolerance)
