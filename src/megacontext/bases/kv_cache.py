"""Keys and values of one window in buffers that are written in place.

transformers' own dynamic cache concatenates at every token, and its static cache hands the whole buffer to attention.
Here attention sees a view of the filled part, forgetting is a number, and a forward that fails half-way leaves the
cache as it was, because only ``advance`` makes its entries count.

Attention does not care where a key lies. Entries that were patched in lie behind those that were there, and what is
forgotten in the middle is filled from the end, so that there is never a hole. ``slots`` says where each place lies.

Shape legend: 1 (batch), H key-value heads, Q query heads, C capacity, T new entries, E head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache

from megacontext.bases.entry_positions import EntryPositions
from megacontext.bases.rotary import Frequencies
from megacontext.bases.transfers import on_device
from megacontext.errors import InvalidValueError

__all__ = ["KVCache", "Keeping", "slots_with"]


@dataclass(frozen=True)
class Keeping:
    """What it takes to forget all but the entries at some places: from which slots to which some of them have to move,
    so that there is no hole, and where those that are kept lie then, in their order."""

    places_n: npt.NDArray[np.int64]
    sources_m: npt.NDArray[np.int64]
    targets_m: npt.NDArray[np.int64]
    slots_n: npt.NDArray[np.int64]


def slots_with(slots_n: npt.NDArray[np.int64], places_T: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``KVCache.slots`` of a window in which T new entries, which lie last, stand at these places, ascending, and those
    in ``slots_n`` between them."""
    num_after = len(slots_n) + len(places_T)
    is_new = np.zeros(num_after, dtype=np.bool_)
    is_new[places_T] = True
    slots = np.empty(num_after, dtype=np.int64)
    slots[is_new] = np.arange(len(slots_n), num_after)
    slots[~is_new] = slots_n
    return slots


def new_buffer(new: torch.Tensor, capacity_entries: int) -> torch.Tensor:
    """Room for so many entries like the new ones [1, X, T, Y]. Made once for each thing that a cache keeps, and again
    where a window outgrows it, never for a token: ``benchmarks/operations.py`` counts it."""
    return new.new_empty((*new.shape[:2], capacity_entries, new.shape[3]))


class KVCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """Implements ``ModelCache`` and what transformers' models ask of a cache.

    num_layers: layers of the model; capacity_entries: entries that fit before the buffers grow (they double);
    tap_layer: the layer whose queries are kept too, for ``attention_mass``; expand: that layer's keys, of what its two
    buffers hold, where these are no keys and values (latent attention); has_positions: whether it is kept where entries
    stand, for layers that see only so far.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        capacity_entries: int,
        tap_layer: int,
        expand: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        has_positions: bool = False,
    ) -> None:
        if capacity_entries < 1:
            raise InvalidValueError(f"capacity_entries is {capacity_entries}; it must be at least 1")
        super().__init__(layers=[])
        self.num_entries = 0
        self.tap_layer = tap_layer
        self.tap_scaling = 0.0
        self.tap_softcap: float | None = None
        self.positions = EntryPositions() if has_positions else None
        self.frequencies: Frequencies | None = None
        self._expand = expand
        self._capacity = capacity_entries
        self._keys: list[torch.Tensor | None] = [None] * num_layers
        self._values: list[torch.Tensor | None] = [None] * num_layers
        self._queries: torch.Tensor | None = None
        self._slots = np.arange(capacity_entries)  # of every place; beyond the window place and slot are the same
        self._is_in_order = True

    @property
    def capacity_entries(self) -> int:
        """How many entries there is room for, or will be with the first of them."""
        return self._capacity

    @property
    def slots(self) -> npt.NDArray[np.int64]:
        """Where the entry of each place of the window lies, int64 [num_entries]."""
        return self._slots[: self.num_entries]

    def truncate(self, num_entries: int) -> None:
        """Forget everything from entry ``num_entries`` on."""
        if not 0 <= num_entries <= self.num_entries:
            raise InvalidValueError(f"cannot truncate to {num_entries}: the cache has {self.num_entries} entries")
        if self._is_in_order:
            self.num_entries = num_entries
            if self.positions is not None:
                self.positions.keep(np.arange(num_entries))
        else:
            keeping = self.keeping(np.arange(num_entries))
            self.keep(keeping, *on_device(self._device, keeping.sources_m, keeping.targets_m))

    def keeping(self, places_n: npt.NDArray[np.int64]) -> Keeping:
        """How to forget all entries but those at these places, given ascending. Nothing is changed yet."""
        num_kept = len(places_n)
        slots_n = self._slots[places_n]
        is_beyond = slots_n >= num_kept
        sources_m = slots_n[is_beyond]
        slots_n[is_beyond] = np.setdiff1d(np.arange(num_kept), slots_n[~is_beyond], assume_unique=True)
        return Keeping(places_n, sources_m, slots_n[is_beyond], slots_n)

    def keep(self, keeping: Keeping, sources_m: torch.Tensor, targets_m: torch.Tensor) -> None:
        """Forget all but what ``keeping`` keeps, whose sources and targets are given on the device."""
        if len(sources_m):
            for _, buffer in self._buffers():
                buffer.index_copy_(2, targets_m, buffer.index_select(2, sources_m))
        num_kept = self.num_entries = len(keeping.slots_n)
        if self.positions is not None:
            self.positions.keep(keeping.places_n)
        self._slots = np.arange(len(self._slots))
        self._slots[:num_kept] = keeping.slots_n
        self._is_in_order = bool((keeping.slots_n == np.arange(num_kept)).all())

    def advance(self, num_new: int, slots: npt.NDArray[np.int64] | None = None) -> None:
        """Make the entries written by the last forward count: at the end, or where ``slots_with`` put them."""
        self.num_entries += num_new
        if self.positions is not None:
            self.positions.settle(num_new)
        if self.num_entries > len(self._slots):
            self._slots = np.concatenate([self._slots, np.arange(len(self._slots), self._capacity)])
        if slots is not None:
            self._slots[: self.num_entries] = slots
            self._is_in_order = bool((slots == np.arange(len(slots))).all())

    def begin(self, positions_T: npt.NDArray[np.float64], slots_S: npt.NDArray[np.int64] | None = None) -> None:
        """Say where the entries of the coming forward stand; ``slots_S`` as for ``advance``."""
        if self.positions is not None:
            self.positions.begin(positions_T, self.slots, slots_S)

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

    def record_queries(self, queries: torch.Tensor, scaling: float, softcap: float | None = None) -> None:
        """Keep the queries [1, Q, T, E] of the tap layer, and what its scores are made with."""
        buffer = self._queries = self._room(self._queries, queries)
        buffer[:, :, self.num_entries : self.num_entries + queries.shape[2]] = queries
        self.tap_scaling, self.tap_softcap = scaling, softcap

    def tap(self, num_queries: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the tap layer: queries [1, Q, num_queries, E] of the last entries, in the order of the window, and keys
        [1, H, num_entries, E] of all, as they lie."""
        keys, values = self._keys[self.tap_layer], self._values[self.tap_layer]
        assert self._queries is not None
        assert keys is not None
        assert values is not None
        keys = keys[:, :, : self.num_entries]
        if self._expand is not None:
            keys = self._expand(keys, values[:, :, : self.num_entries])
        return self._in_order(self._queries, self.num_entries - num_queries), keys

    def layer_keys(self) -> Iterator[torch.Tensor]:
        """The buffer of each layer's keys [1, H, C, E], as they lie."""
        for keys in self._keys:
            assert keys is not None
            yield keys

    def layer_values(self) -> Iterator[torch.Tensor]:
        """The buffer of each layer's values [1, H, C, E], as they lie."""
        for values in self._values:
            assert values is not None
            yield values

    def last_values(self, places_n: npt.NDArray[np.int64]) -> torch.Tensor:
        """What others read of the entries at these places in the last layer [n, H, E]: values, or what they are
        expanded from."""
        read = self._values[-1] if self._expand is None else self._keys[-1]
        assert read is not None
        (slots_n,) = on_device(read.device, self._slots[places_n])
        return read[0, :, slots_n].transpose(0, 1)

    def state(self) -> dict[str, torch.Tensor]:
        """All entries as they lie, by name, on the CPU, and where each place lies."""
        if not self.num_entries:
            return {"slots": torch.zeros(0, dtype=torch.int64)}
        entries = {name: buffer[:, :, : self.num_entries].cpu().clone() for name, buffer in self._buffers()}
        where = {"slots": torch.from_numpy(self.slots.copy()), "tap_scaling": torch.tensor(self.tap_scaling)}
        if self.positions is not None:
            where["positions"] = torch.from_numpy(self.positions.of_places.copy())
        return {**entries, **where}

    def fill(self, state: dict[str, torch.Tensor]) -> None:
        """Hold the entries of a ``state`` instead of the one that is here (any: it tells what the model's are like).
        InvalidValueError if they are not those of such a cache."""
        slots = state.get("slots", torch.zeros(0)).tolist()
        if sorted(slots) != list(range(len(slots))) or len(slots) > self._capacity:
            raise InvalidValueError(f"the saved cache does not say where its {len(slots)} entries lie")
        self.truncate(0)
        if not slots:
            return
        for name, buffer in self._buffers():
            saved, expected = state.get(name), (*buffer.shape[:2], len(slots), buffer.shape[3])
            if saved is None or saved.dtype != buffer.dtype or saved.shape != expected:
                found = "nothing" if saved is None else f"{saved.dtype} {tuple(saved.shape)}"
                raise InvalidValueError(
                    f"{name} of the saved cache is {found}; this model, so placed, has {buffer.dtype} {expected}"
                )
            buffer[:, :, : len(slots)] = saved.to(buffer.device)
        self.tap_scaling = float(state["tap_scaling"])
        if self.positions is not None:
            positions = state.get("positions", torch.zeros(0))
            if positions.shape != (len(slots),):
                raise InvalidValueError(
                    f"the saved cache has {len(positions)} positions for {len(slots)} entries; this model's layers see "
                    "only so far, and need one for each"
                )
            self.begin(positions.numpy())
        self.advance(len(slots), np.array(slots, dtype=np.int64))

    def _in_order(self, buffer: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Entries of a buffer [1, X, C, Y] from place ``first`` on, in the order of the window."""
        slots_n = self._slots[first : self.num_entries]
        if self._is_in_order or (np.diff(slots_n) == 1).all():  # the last ones of a patched window are, too
            begin = int(slots_n[0]) if len(slots_n) else 0
            return buffer[:, :, begin : begin + len(slots_n)]
        return buffer.index_select(2, *on_device(buffer.device, slots_n))

    @property
    def _device(self) -> torch.device:
        keys = self._keys[0]
        assert keys is not None
        return keys.device

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Everything that is kept of entries, by name, entries along the third axis."""
        named = [(f"keys.{layer}", keys) for layer, keys in enumerate(self._keys)]
        named += [(f"values.{layer}", values) for layer, values in enumerate(self._values)]
        for name, buffer in [*named, ("queries", self._queries)]:
            assert buffer is not None
            yield name, buffer

    @property
    def bytes_per_entry(self) -> int:
        """What is kept of each entry; at least one must be there."""
        return sum(buffer[:, :, 0].numel() * buffer.element_size() for _, buffer in self._buffers())

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
        larger = new_buffer(new, self._capacity)
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
