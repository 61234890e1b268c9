"""Several caches that take one entry each: sessions that step together, none of them padded.

Linear maps see the entries of all sessions as the rows of one batch, which reads a model's weights once instead of once
per session; attention goes through the sessions one by one, each over its own entries.

Shape legend: B sessions, Q query heads, H key-value heads, S entries of one session, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache

from megacontext.bases.kv_cache import KVCache
from megacontext.errors import InvalidValueError

__all__ = ["CacheBatch"]


class CacheBatch(Cache):  # type: ignore[misc]  # transformers is not typed
    """What a model sees as the cache of a batch of one entry per session."""

    def __init__(self, caches: Sequence[KVCache]) -> None:
        if not caches or len({id(cache) for cache in caches}) < len(caches):
            raise InvalidValueError(f"{len(caches)} caches, not all different; give one for each session, at least one")
        super().__init__(layers=[])
        self.caches = tuple(caches)
        self.tap_layer = caches[0].tap_layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Write the new keys and values of a layer [B, H, 1, E]; views of each session's own [1, H, S, E]."""
        updated = [
            cache.update(key_states[row : row + 1], value_states[row : row + 1], layer_idx)
            for row, cache in enumerate(self.caches)
        ]
        return tuple(keys for keys, _ in updated), tuple(values for _, values in updated)

    def begin(self, positions_B: npt.NDArray[np.float64]) -> None:
        """Say where the coming entry of each session stands."""
        for cache, position in zip(self.caches, positions_B, strict=True):
            cache.begin(np.array([position]))

    def record_queries(self, queries: torch.Tensor, scaling: float, softcap: float | None = None) -> None:
        """Keep each session's query of the tap layer."""
        for row, cache in enumerate(self.caches):
            cache.record_queries(queries[row : row + 1], scaling, softcap)

    def advance(self) -> None:
        """Make the new entries count, of all sessions or of none."""
        for cache in self.caches:
            cache.advance(1)

    # What transformers' models ask of a cache besides ``update``.

    @property
    def is_compileable(self) -> bool:
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.caches[0].num_entries

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.caches[0].num_entries

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.caches[0].num_entries + query_length, 0
