"""The faster ways through attention against torch's own."""

from __future__ import annotations

import pytest
import torch

from megacontext.bases.attention import _blockwise_causal, _one_query, causal_mask


def heads(num_heads: int, num_tokens: int, seed: int) -> torch.Tensor:
    """[2 rows, heads, tokens, 8] laid out as a model gives them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_tokens, num_heads, 8, generator=generator).transpose(1, 2)


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, is_causal: bool) -> torch.Tensor:
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=0.3)
    return output.transpose(1, 2)


@pytest.mark.parametrize("num_query_heads", [2, 4, 6])
@pytest.mark.parametrize("num_tokens", [2, 63, 64, 65, 130])
def test_blockwise_causal(num_tokens: int, num_query_heads: int) -> None:
    query = heads(num_query_heads, num_tokens, 0)
    key, value = heads(2, num_tokens, 1), heads(2, num_tokens, 2)
    ours = _blockwise_causal(query, key, value, 0.3)
    torch.testing.assert_close(ours, reference(query, key, value, is_causal=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_query_heads", [2, 4, 6])
def test_one_query(num_query_heads: int) -> None:
    query = heads(num_query_heads, 1, 0)
    key, value = heads(2, 33, 1), heads(2, 33, 2)
    ours = _one_query(query, key, value, 0.3)
    torch.testing.assert_close(ours, reference(query, key, value, is_causal=False), atol=1e-5, rtol=1e-5)


def test_causal_mask_lets_new_entries_see_the_cache_and_each_other_backwards() -> None:
    expected = [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(2, 2, torch.device("cpu")).tolist() == expected
