"""Moving cached keys to other positions: rotary embedding turns keys, and turning further is turning once more.

A key at position p is R(p) k, so R(d) R(p) k = R(p + d) k: an entry that has moved by d needs its keys turned by d, and
nothing run (Su et al. 2021, "RoFormer"). What shrinks keys, as Gaussian RoPE does for gists, stays as it is.

Shape legend: H key-value heads, C capacity, n entries, E head dimension, F rotated pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.kv_cache import KVCache
from megacontext.bases.transfers import on_device

__all__ = ["KeyTurning", "find_turning"]

PROBE_DISTANCE = 3.0


@dataclass(frozen=True)
class KeyTurning:
    """How a model's keys turn.

    omega_F: radians a position; is_interleaved: whether the two halves of a pair lie side by side, not F apart;
    layers: those whose keys turn at all.
    """

    omega_F: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    is_interleaved: bool
    layers: frozenset[int]

    def turn(self, cache: KVCache, distances_S: npt.NDArray[np.float64]) -> None:
        """Move every entry of the window by so many positions."""
        moved = np.flatnonzero(distances_S)
        device = next(cache.layer_keys()).device
        self.turn_at(cache, *on_device(device, cache.slots[moved], distances_S[moved], self.omega_F))

    def turn_at(self, cache: KVCache, slots_n: torch.Tensor, distances_n: torch.Tensor, omega_F: torch.Tensor) -> None:
        """Move the entries in these slots; all of it, ``omega_F`` too, lies on the device."""
        if not len(slots_n):
            return
        phases_nF = distances_n[:, None] * omega_F
        cos_nF, sin_nF = phases_nF.cos().float(), phases_nF.sin().float()
        for layer, keys_1HCE in enumerate(cache.layer_keys()):
            if layer in self.layers:
                keys_1HCE.index_copy_(2, slots_n, self._turned(keys_1HCE.index_select(2, slots_n), cos_nF, sin_nF))

    def _turned(self, keys_1HnE: torch.Tensor, cos_nF: torch.Tensor, sin_nF: torch.Tensor) -> torch.Tensor:
        num_pairs = cos_nF.shape[1]
        turned = keys_1HnE.clone()
        if self.is_interleaved:
            halves = (slice(0, 2 * num_pairs, 2), slice(1, 2 * num_pairs, 2))
        else:
            halves = (slice(0, num_pairs), slice(num_pairs, 2 * num_pairs))
        left, right = (keys_1HnE[..., half].float() for half in halves)
        turned[..., halves[0]] = (left * cos_nF - right * sin_nF).to(turned.dtype)
        turned[..., halves[1]] = (right * cos_nF + left * sin_nF).to(turned.dtype)
        return turned


def find_turning(
    omega_F: npt.NDArray[np.float64], run_one: Callable[[float], KVCache], *, tolerance: float
) -> KeyTurning | None:
    """How a model's keys turn, found by looking; None if they do in no way that is known.

    run_one: a fresh cache with one and the same entry at a position. An entry that sees itself alone has keys that
    differ from place to place by their turning only, in every layer. tolerance: of keys, relative to the largest.
    """
    with torch.no_grad():
        there, here = (_first_keys(run_one(position)) for position in (PROBE_DISTANCE, 0.0))
        every = range(len(here))
        layers = frozenset(layer for layer in every if not _near(here[layer], there[layer], tolerance))
        for is_interleaved in (False, True) if layers else ():
            found = KeyTurning(omega_F, is_interleaved, layers)
            cache = run_one(0.0)
            found.turn(cache, np.array([PROBE_DISTANCE]))
            ours = _first_keys(cache)
            if all(_near(ours[layer], there[layer], tolerance) for layer in every):
                return found
    return None


def _first_keys(cache: KVCache) -> list[torch.Tensor]:
    """The first entry's keys of every layer."""
    return [keys_1HCE[:, :, 0].float() for keys_1HCE in cache.layer_keys()]


def _near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    return float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
