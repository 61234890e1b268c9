"""Where the entries of a window stand, for layers that see only so far: an entry is hidden from those that stand the
layer's window or more behind it, wherever either lies in the cache.

Distances are of positions, not of entries: a layer that was trained on the last 4,096 tokens has never turned a key
further, and a gist that stands for tokens far away is as far away as they are.

Shape legend: T coming entries, S all entries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.transfers import on_device

__all__ = ["EntryPositions"]


class EntryPositions:
    """``of_places``: positions by place in the window, NaN for entries that nobody told of; ``slots`` are as the cache
    has them."""

    def __init__(self) -> None:
        self.of_places = np.zeros(0)
        self._coming = np.zeros(0)
        self._coming_slots: npt.NDArray[np.int64] | None = None
        self._slots = np.zeros(0, dtype=np.int64)
        self._biases: dict[int, torch.Tensor | None] = {}

    def begin(
        self,
        positions_T: npt.NDArray[np.float64],
        slots: npt.NDArray[np.int64],
        coming_slots_S: npt.NDArray[np.int64] | None,
    ) -> None:
        """Say where the entries of the coming forward stand. slots: of those that are there; coming_slots_S: of all
        places once they are, if they do not stand behind all others."""
        self._coming, self._coming_slots, self._slots = positions_T, coming_slots_S, slots
        self._biases = {}

    def settle(self, num_new: int) -> None:
        """The coming entries are there."""
        if len(self._coming) != num_new:
            self._coming = np.full(num_new, np.nan)
        self.of_places = self._after()
        self._coming = np.zeros(0)

    def keep(self, places_n: npt.NDArray[np.int64]) -> None:
        """Forget all entries but those at these places."""
        self.of_places = self.of_places[places_n]

    def first_within(self, window: int) -> int | None:
        """The first slot that the one coming entry sees, if it sees all from there on and nothing else."""
        if len(self._coming) != 1 or self._coming_slots is not None:
            return None
        hidden = np.flatnonzero(self._coming[0] - self.of_places >= window)
        if len(hidden) == 0:
            return 0
        first = int(hidden[-1]) + 1
        in_order = len(hidden) == first and (self._slots == np.arange(len(self._slots))).all()
        return first if in_order else None

    def bias(
        self, window: int, bias_TS: torch.Tensor | None, *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor | None:
        """What hides from the coming entries those that stand ``window`` positions or more before them, and what
        ``bias_TS`` hides (None: what stands behind them), as the biases of ``attend_where``; None if that is nothing
        but what stands behind them. Kept for the other layers."""
        if window not in self._biases:
            hidden_TS = self._hidden(window, bias_TS is None)
            if hidden_TS is None:
                self._biases[window] = bias_TS
            else:
                (hidden,) = on_device(device, hidden_TS)
                before = torch.zeros(hidden.shape, dtype=dtype, device=device) if bias_TS is None else bias_TS
                self._biases[window] = before.masked_fill(hidden, -torch.inf)
        return self._biases[window]

    def _hidden(self, window: int, hides_later: bool) -> npt.NDArray[np.bool_] | None:
        num_new = len(self._coming)
        slots_S = self._coming_slots
        if slots_S is None:
            slots_S = np.concatenate([self._slots, np.arange(len(self._slots), len(self._slots) + num_new)])
        positions_S = np.empty(len(slots_S))
        positions_S[slots_S] = self._after()
        hidden_TS = self._coming[:, None] - positions_S >= window
        if not hidden_TS.any():
            return None
        if hides_later:
            places_S = np.empty_like(slots_S)
            places_S[slots_S] = np.arange(len(slots_S))
            hidden_TS |= places_S > places_S[-num_new:, None]
        return hidden_TS

    def _after(self) -> npt.NDArray[np.float64]:
        """Positions of all places once the coming entries are there."""
        if self._coming_slots is None:
            return np.concatenate([self.of_places, self._coming])
        is_new = self._coming_slots >= len(self.of_places)
        positions_S = np.empty(len(self._coming_slots))
        positions_S[is_new] = self._coming
        positions_S[~is_new] = self.of_places
        return positions_S
