"""What every base over ``KVCache`` does before a patch runs: forget, move, and say where the new entries will lie.

All that is told of it on the host goes to the device in one copy, however many layers there are.

Shape legend: n kept entries, T new entries, S both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.attention import kernel_mask, place_mask
from megacontext.bases.key_turning import KeyTurning, Omegas
from megacontext.bases.kv_cache import KVCache, slots_with
from megacontext.bases.transfers import on_device

__all__ = ["Rearranged", "rearranged"]


@dataclass(frozen=True)
class Rearranged:
    """slots_S: where each place of the window lies once the new entries are there; mask_TS: where these may look;
    beside: what else was to be brought along."""

    slots_S: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    mask_TS: torch.Tensor  # noqa: N815 - shape suffix
    beside: tuple[torch.Tensor, ...]


def _nothing(slots_S: npt.NDArray[np.int64]) -> Sequence[npt.NDArray[Any]]:
    return ()


@contextmanager
def rearranged(
    cache: KVCache,
    turning: KeyTurning,
    omegas_F: Omegas,
    kept_n: npt.NDArray[np.int64],
    moved_n: npt.NDArray[np.float64],
    places_T: npt.NDArray[np.int64],
    device: torch.device,
    beside: Callable[[npt.NDArray[np.int64]], Sequence[npt.NDArray[Any]]] = _nothing,
) -> Iterator[Rearranged]:
    """For a block that runs the new entries. omegas_F: how this window's keys turn; ``beside``: of ``slots_S``, arrays
    that the block needs on the device.

    If the block fails the cache is empty: entries that were moved half-way are worth nothing.
    """
    try:
        keeping = cache.keeping(kept_n)
        slots_S = slots_with(keeping.slots_n, places_T)
        places_S = np.empty_like(slots_S)
        places_S[slots_S] = np.arange(len(slots_S))
        moved = np.flatnonzero(moved_n)
        moves = (keeping.sources_m, keeping.targets_m, keeping.slots_n[moved], moved_n[moved])
        there = on_device(device, *moves, places_S, *omegas_F.values(), *beside(slots_S))
        (sources_m, targets_m, slots_n, distances_n, places), rest = there[:5], there[5:]
        cache.keep(keeping, sources_m, targets_m)
        if cache.positions is not None:
            cache.positions.of_places += moved_n
        turning.turn_at(cache, slots_n, distances_n, dict(zip(omegas_F, rest, strict=False)))
        mask_TS = kernel_mask(place_mask(places, len(places_T)), next(cache.layer_keys()).dtype)
        yield Rearranged(slots_S, mask_TS, rest[len(omegas_F) :])
    except BaseException:
        cache.truncate(0)
        raise
