"""The cache of the native core: what any model keeps of an entry, and what its token shift and its lens look at.

Shape legend: N neighbours, T new entries, S all entries, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.kv_cache import KVCache
from megacontext.nets.shapes import NUM_SHIFTS

__all__ = ["NativeCache", "neighbour_slots"]


class NativeCache(KVCache):
    """Keys and values, the entries themselves (token shift looks two back), and their states after the tapped layer
    (a learned lens looks at them)."""

    def __init__(self, *, num_layers: int, capacity_entries: int) -> None:
        super().__init__(num_layers=num_layers, capacity_entries=capacity_entries, tap_layer=num_layers // 2)
        self._entries: torch.Tensor | None = None
        self._states: torch.Tensor | None = None

    def entries_before(self, entries_TD: torch.Tensor) -> torch.Tensor:
        """Keep the new entries; the two before them [2, D], zeros where there are none."""
        new = entries_TD[None, None]
        buffer = self._entries = self._room(self._entries, new)
        buffer[:, :, self.num_entries : self.num_entries + len(entries_TD)] = new
        before = self._in_order(buffer, max(0, self.num_entries - NUM_SHIFTS))[0, 0]
        if len(before) == NUM_SHIFTS:
            return before
        return torch.nn.functional.pad(before, (0, 0, NUM_SHIFTS - len(before), 0))

    def neighbours_of(self, entries_TD: torch.Tensor, slots_NT: torch.Tensor) -> torch.Tensor:
        """Keep the new entries; their ``neighbour_slots`` [N, T, D], zeros where there are none."""
        self.entries_before(entries_TD)
        assert self._entries is not None
        return self._entries[0, 0, slots_NT.clamp_min(0)] * (slots_NT >= 0)[..., None]

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from super()._buffers()
        assert self._entries is not None
        assert self._states is not None
        yield from (("entries", self._entries), ("states", self._states))

    def record_states(self, states_TD: torch.Tensor) -> None:
        """Keep the tapped states of the new entries."""
        new = states_TD[None, None]
        buffer = self._states = self._room(self._states, new)
        buffer[:, :, self.num_entries : self.num_entries + len(states_TD)] = new

    def last_states(self, num_entries: int) -> torch.Tensor:
        """Tapped states [n, D] of the last n entries of the window."""
        assert self._states is not None
        return self._in_order(self._states, self.num_entries - num_entries)[0, 0]


def neighbour_slots(places_T: npt.NDArray[np.int64], slots_S: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the entries one and two places before each of these lie [N, T], -1 where the window begins."""
    places_NT = places_T - np.arange(1, NUM_SHIFTS + 1)[:, None]
    return np.where(places_NT >= 0, slots_S[places_NT], -1)
