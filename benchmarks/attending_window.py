"""A patched window that chooses otherwise which rows run again: those that looked most at what an edit replaces.

By default the probes of a patch are the rows that have been out of date for the longest. Here they are the rows out of
date whose attention to the replaced rows, at the tapped layer, is the largest: what they hold is made of what is gone.
An arm of ``patch_drift.py``; it runs as many rows as the default.

Shape legend: O rows of the old window, H query heads, G key-value heads, E head dimension.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.native import NativeBase
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.patching import Patch, Patching, plan_patch
from megacontext.runtime.window import WindowRows

__all__ = ["AttendingWindow", "attention_to"]


class AttendingWindow(ModelWindow):
    """``ModelWindow`` with probes chosen by attention."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._asked_at = np.zeros(self.capacity_entries)  # where each row stood when it ran: queries never move

    @classmethod
    def like(cls, window: ModelWindow) -> Self:
        """An empty one in the place of an empty window."""
        return cls(window._base, window._reader, capacity_entries=window.capacity_entries, patching=window._patching)

    def looked_at_replaced(self, rows: WindowRows) -> npt.NDArray[np.float64]:
        """Attention [O] of each row to those that ``rows`` no longer has."""
        shown = set(map(tuple, rows.keys.tolist()))
        is_gone_O = np.array([tuple(key) not in shown for key in self.rows.keys.tolist()], dtype=np.bool_)
        num_rows = len(self.rows)
        moved_O = self._positions[:num_rows] - self._asked_at[:num_rows]
        return attention_to(self._base, self.cache, np.flatnonzero(is_gone_O), moved_O)

    def _plan(self, rows: WindowRows, patching: Patching) -> Patch:
        shown = slice(0, self._num_rows)
        most_first_O = np.argsort(-self.looked_at_replaced(rows), kind="stable")
        order_O = np.empty(self._num_rows, dtype=np.int64)
        order_O[most_first_O] = np.arange(self._num_rows)
        return plan_patch(self.rows, rows, patching, is_stale_O=self._is_stale[shown], ran_O=order_O)

    def _patch(self, rows: WindowRows, patch: Patch, *, num_tokens: int) -> None:
        asked_k = self._asked_at[patch.kept_old_k]
        super()._patch(rows, patch, num_tokens=num_tokens)
        self._asked_at[patch.kept_new_k] = asked_k
        self._asked_at[patch.run_R] = self._positions[patch.run_R]

    def _end_run(self, keys: npt.NDArray[np.int64], placed_T: npt.NDArray[np.float64], logits_V: torch.Tensor) -> None:
        first = self._num_rows
        super()._end_run(keys, placed_T, logits_V)
        self._asked_at[first : self._num_rows] = placed_T


def attention_to(
    base: Any, cache: Any, places_n: npt.NDArray[np.int64], moved_O: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Attention [O] that each entry of a cache gives to those at ``places_n`` together, at the tapped layer, by the
    head that gives most. moved_O: by how many positions each entry has moved since it ran."""
    assert isinstance(base, NativeBase | HuggingFaceBase)
    turning = base._turning
    assert turning is not None
    num_entries = cache.num_entries
    queries_1HOE, keys_1GOE = cache.tap(num_entries)
    queries_1HOE, keys_1GOE = queries_1HOE.float(), keys_1GOE.float()[:, :, torch.from_numpy(cache.slots.copy())]
    if cache.tap_layer in turning.layers:
        turned = turning.layers[cache.tap_layer]
        omegas_F = base._omegas_F if isinstance(base, NativeBase) else cache.frequencies.omegas_F
        phases_OF = torch.from_numpy(moved_O[:, None] * omegas_F[turned.kind])
        queries_1HOE = turned.turned(queries_1HOE, phases_OF.cos().float(), phases_OF.sin().float())
    keys_1HOE = keys_1GOE.repeat_interleave(queries_1HOE.shape[1] // keys_1GOE.shape[1], 1)
    scores_HOO = (queries_1HOE[0] * cache.tap_scaling) @ keys_1HOE[0].transpose(1, 2)
    is_later_OO = torch.ones(num_entries, num_entries, dtype=torch.bool).triu(1)
    shares_HOO = scores_HOO.masked_fill_(is_later_OO, -torch.inf).softmax(-1)
    given: npt.NDArray[np.float64] = shares_HOO[:, :, places_n].sum(-1).amax(0).double().numpy()
    return given
