"""Keys and values of one window in buffers that are written in place.

transformers' own dynamic cache concatenates at every token, and its static cache hands the whole buffer to attention.
Here attention sees a view of the filled part, forgetting is a number, and a forward that fails half-way leaves the
cache as it was, because only ``advance`` makes its entries count.

Shape legend: 1 (batch), H key-value heads, Q query heads, C capacity, T new entries, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache

from megacontext.errors import InvalidValueError

__all__ = ["KVCache"]


class KVCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Implements ``ModelCache`` and what transformers' models ask of a cache.

    num_layers: layers of the model; capacity_entries: entries that fit before the buffers grow (they double);
    tap_layer: the layer whose queries are kept too, for ``attention_mass``.
    """

    def __init__(self, *, num_layers: int, capacity_entries: int, tap_layer: int) -> None:
        if capacity_entries < 1:
            raise InvalidValueError(f"capacity_entries is {capacity_entries}; it must be at least 1")
        super().__init__(layers=[])
        self.num_entries = 0
        self.tap_layer = tap_layer
        self.tap_scaling = 0.0
        self._capacity = capacity_entries
        self._keys: list[torch.Tensor | None] = [None] * num_layers
        self._values: list[torch.Tensor | None] = [None] * num_layers
        self._queries: torch.Tensor | None = None

    def truncate(self, num_entries: int) -> None:
        """Forget everything from entry ``num_entries`` on."""
        if not 0 <= num_entries <= self.num_entries:
            raise InvalidValueError(f"cannot truncate to {num_entries}: the cache has {self.num_entries} entries")
        self.num_entries = num_entries

    def advance(self, num_new: int) -> None:
        """Make the entries written by the last forward count."""
        self.num_entries += num_new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values of a layer [1, H, T, E]; views of all [1, H, num_entries + T, E]."""
        stop = self.num_entries + key_states.shape[2]
        keys = self._keys[layer_idx] = self._room(self._keys[layer_idx], key_states)
        values = self._values[layer_idx] = self._room(self._values[layer_idx], value_states)
        keys[:, :, self.num_entries : stop] = key_states
        values[:, :, self.num_entries : stop] = value_states
        return keys[:, :, :stop], values[:, :, :stop]

    def record_queries(self, queries: torch.Tensor, scaling: float) -> None:
        """Keep the queries [1, Q, T, E] of the tap layer."""
        buffer = self._queries = self._room(self._queries, queries)
        buffer[:, :, self.num_entries : self.num_entries + queries.shape[2]] = queries
        self.tap_scaling = scaling

    def tap(self, num_queries: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [1, Q, num_queries, E] of the last entries and keys [1, H, num_entries, E] of the tap layer."""
        keys = self._keys[self.tap_layer]
        assert self._queries is not None
        assert keys is not None
        first = self.num_entries - num_queries
        return self._queries[:, :, first : self.num_entries], keys[:, :, : self.num_entries]

    @property
    def is_complete(self) -> bool:
        """Whether every layer wrote its keys, and the tap layer its queries."""
        return self._queries is not None and all(keys is not None for keys in self._keys)

    def _room(self, buffer: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """The buffer, or a larger one with its entries, that takes ``new`` as well."""
        needed = self.num_entries + new.shape[2]
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        while self._capacity < needed:
            self._capacity *= 2
        larger = new.new_empty((*new.shape[:2], self._capacity, new.shape[3]))
        if buffer is not None:
            larger[:, :, : self.num_entries] = buffer[:, :, : self.num_entries]
        return larger

    # What transformers' models ask of a cache besides ``update``.

    @property
    def is_compileable(self) -> bool:
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.num_entries

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.num_entries

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.num_entries + query_length, 0

    def __len__(self) -> int:
        return len(self._keys)
