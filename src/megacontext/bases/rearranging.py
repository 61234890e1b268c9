"""What every base over ``KVCache`` does before a patch runs: forget, move, and say where the new entries will lie.

Shape legend: n kept entries, T new entries, S both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.attention import kernel_mask, place_mask
from megacontext.bases.key_turning import KeyTurning
from megacontext.bases.kv_cache import KVCache

__all__ = ["rearranged"]


@contextmanager
def rearranged(
    cache: KVCache,
    turning: KeyTurning,
    kept_n: npt.NDArray[np.int64],
    moved_n: npt.NDArray[np.float64],
    places_T: npt.NDArray[np.int64],
    device: torch.device,
) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
    """For a block that runs the new entries: where each place of the window lies then [S], and the mask [T, S].

    If the block fails the cache is empty: entries that were moved half-way are worth nothing.
    """
    try:
        cache.keep(kept_n)
        turning.turn(cache, moved_n)
        slots_S = cache.slots_with(places_T)
        dtype = next(cache.layer_keys()).dtype
        yield slots_S, kernel_mask(place_mask(slots_S, len(places_T), device), dtype)
    except BaseException:
        cache.truncate(0)
        raise
