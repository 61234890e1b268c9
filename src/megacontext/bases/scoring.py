"""What adapters share: ids checked, whole windows scored in slices of equal shape, attention of the tapped layer read.

Shape legend: B rows, T tokens, N positions, S entries in the cache, V vocabulary, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from megacontext.bases.kv_cache import KVCache
from megacontext.bases.transfers import on_device
from megacontext.errors import InvalidTokensError, InvalidValueError
from megacontext.ports.base import BaseInfo

__all__ = ["checked_ids", "mass_of_tap", "surprise_of_rows"]

# One forward of ``surprise_of_rows`` sees about this many tokens: enough to fill the matrix units, little for memory.
SLICE_TOKENS = 1024
# Float32 logits held at once while negative log-likelihoods are taken: on a CPU what stays in its cache.
MASS_ELEMENTS = 1 << 24  # attention scores at once, of all heads
LOGIT_CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 25}


def checked_ids(token_ids: npt.NDArray[np.uint32], info: BaseInfo, *, ndim: int, device: torch.device) -> torch.Tensor:
    """Ids as int64 on the device; InvalidTokensError for another shape or kind, or ids outside the vocabulary."""
    if token_ids.ndim != ndim or token_ids.dtype.kind not in "ui":
        raise InvalidTokensError(
            f"token ids have shape {token_ids.shape} and dtype {token_ids.dtype}; expected {ndim} axes of integers"
        )
    if token_ids.size and not 0 <= token_ids.min() <= token_ids.max() < info.vocab_size:
        bad = token_ids.min() if token_ids.min() < 0 else token_ids.max()
        raise InvalidTokensError(f"token id {bad} is outside the vocabulary of {info.name}: 0 to {info.vocab_size - 1}")
    return on_device(device, token_ids.astype(np.int64))[0]


def surprise_of_rows(
    ids_BT: torch.Tensor,
    logits: Callable[[torch.Tensor], torch.Tensor],
    *,
    vocab_size: int,
    bos_token_id: int | None = None,
) -> npt.NDArray[np.float32]:
    """Nats [B, T] of each token given those before it in its row, and the BOS of a base that has one; the first of a
    row is log(V).

    Rows are run in slices of equal shape, so that on one machine a row's result does not depend on which rows are asked
    for together with it (a slice holds ``SLICE_TOKENS`` tokens, at least one row).
    """
    num_rows, num_tokens = ids_BT.shape
    nats_BT = np.full((num_rows, num_tokens), math.log(vocab_size), dtype=np.float32)
    if num_tokens < 2:
        return nats_BT
    slice_rows = max(1, SLICE_TOKENS // num_tokens)
    for first in range(0, num_rows, slice_rows):
        rows_BT = ids_BT[first : first + slice_rows]
        num_taken = len(rows_BT)
        if num_taken < slice_rows:
            rows_BT = nn.functional.pad(rows_BT, (0, 0, 0, slice_rows - num_taken))
        if bos_token_id is not None:
            rows_BT = nn.functional.pad(rows_BT, (1, 0), value=bos_token_id)
        with torch.no_grad():
            logits_BTV = logits(rows_BT)
            nats = _negative_log_likelihood(logits_BTV[:, :-1].flatten(0, 1), rows_BT[:, 1:].flatten())
        nats_BT[first : first + num_taken, 1:] = nats.view(slice_rows, -1)[:num_taken, 1 - num_tokens :].cpu().numpy()
    return nats_BT


def mass_of_tap(cache: KVCache, *, num_queries: int) -> npt.NDArray[np.float32]:
    """Attention [S] that the last ``num_queries`` entries give to each entry at the tapped layer, max over heads and
    queries. The cache keeps that layer's queries, so nothing is run again."""
    num_entries = cache.num_entries
    if not 1 <= num_queries <= num_entries:
        raise InvalidValueError(
            f"num_queries is {num_queries}; it must be between 1 and the {num_entries} entries of the cache"
        )
    queries, keys = cache.tap(num_queries)
    with torch.no_grad():
        (slots_S,) = on_device(keys.device, cache.slots)
        last_T = slots_S[num_entries - num_queries :]
        keys_HSE = keys[0].float()
        queries_AtE = queries[0].float() * cache.tap_scaling
        num_heads = queries_AtE.shape[0]
        mass_S = torch.zeros(num_entries, device=keys.device)
        chunk = max(1, MASS_ELEMENTS // (num_heads * num_entries))
        for first in range(0, num_queries, chunk):
            asking_AtE = queries_AtE[:, first : first + chunk]
            size = asking_AtE.shape[1]
            groups = asking_AtE.reshape(keys_HSE.shape[0], -1, keys_HSE.shape[-1])  # [H, G t, E]
            scores = torch.matmul(groups, keys_HSE.transpose(1, 2)).view(-1, size, num_entries)
            if cache.tap_softcap is not None:
                scores = torch.tanh(scores / cache.tap_softcap) * cache.tap_softcap
            is_later = torch.arange(num_queries, device=keys.device) > torch.arange(
                first, first + size, device=keys.device
            ).unsqueeze(1)  # of the last entries alone
            scores[:, :, last_T] = scores[:, :, last_T].masked_fill_(is_later, -math.inf)
            mass_S = torch.maximum(mass_S, scores.flatten(0, 1).softmax(-1).amax(0))
        mass: npt.NDArray[np.float32] = mass_S[slots_S].cpu().numpy()
    return mass


def _negative_log_likelihood(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Float32 nats [N], in chunks: float32 logits of a large vocabulary would not fit."""
    chunk = max(1, LOGIT_CHUNK_ELEMENTS[logits_NV.device.type] // logits_NV.shape[-1])
    nats_N = -logits_NV.gather(1, targets_N[:, None])[:, 0].float()
    for first in range(0, len(targets_N), chunk):
        nats_N[first : first + chunk] += logits_NV[first : first + chunk].float().logsumexp(-1)
    return nats_N
