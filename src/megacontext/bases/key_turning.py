"""Moving cached keys to other positions: rotary embedding turns keys, and turning further is turning once more.

A key at position p is R(p) k, so R(d) R(p) k = R(p + d) k: an entry that has moved by d needs its keys turned by d, and
nothing run (Su et al. 2021, "RoFormer"). What shrinks keys, as Gaussian RoPE does for gists, stays as it is.

Shape legend: H key-value heads, C capacity, n entries, E head dimension, F rotated pairs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.kv_cache import KVCache
from megacontext.bases.transfers import on_device

__all__ = ["KeyTurning", "LayerTurning", "Omegas", "find_turning"]

PROBE_DISTANCE = 3.0
# Entries that are looked at: where experts choose by a hair, rounding sends one and the same entry elsewhere.
NUM_PROBES = 6
# Radians a position of each rotated pair, by the kind of layer that rotates so.
Omegas = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class LayerTurning:
    """What of a layer's entries turns, and how.

    kind: whose frequencies; buffer: where the rotated part is kept; first: its first dimension; is_interleaved: whether
    the two halves of a pair lie side by side, not F apart.
    """

    kind: str = ""
    is_interleaved: bool = False
    first: int = 0
    buffer: Literal["keys", "values"] = "keys"

    def turned(self, kept_1HnE: torch.Tensor, cos_nF: torch.Tensor, sin_nF: torch.Tensor) -> torch.Tensor:
        """The same entries where they stand then."""
        num_pairs = cos_nF.shape[1]
        stop = self.first + 2 * num_pairs
        if self.is_interleaved:
            halves = (slice(self.first, stop, 2), slice(self.first + 1, stop, 2))
        else:
            halves = (slice(self.first, self.first + num_pairs), slice(self.first + num_pairs, stop))
        left, right = (kept_1HnE[..., half].float() for half in halves)
        turned = kept_1HnE.clone()
        turned[..., halves[0]] = (left * cos_nF - right * sin_nF).to(turned.dtype)
        turned[..., halves[1]] = (right * cos_nF + left * sin_nF).to(turned.dtype)
        return turned


@dataclass(frozen=True)
class KeyTurning:
    """How a model's keys turn, by layer; a layer that is not named does not."""

    layers: Mapping[int, LayerTurning]

    def turn(self, cache: KVCache, omegas_F: Omegas, distances_S: npt.NDArray[np.float64]) -> None:
        """Move every entry of the window by so many positions."""
        moved = np.flatnonzero(distances_S)
        device = next(cache.layer_keys()).device
        slots_n, distances_n, *there = on_device(device, cache.slots[moved], distances_S[moved], *omegas_F.values())
        self.turn_at(cache, slots_n, distances_n, dict(zip(omegas_F, there, strict=True)))

    def turn_at(
        self, cache: KVCache, slots_n: torch.Tensor, distances_n: torch.Tensor, omegas_F: Mapping[str, torch.Tensor]
    ) -> None:
        """Move the entries in these slots; all of it, ``omegas_F`` too, lies on the device."""
        if not len(slots_n):
            return
        waves = {}
        for kind, omega_F in omegas_F.items():
            phases_nF = distances_n[:, None] * omega_F
            waves[kind] = phases_nF.cos().float(), phases_nF.sin().float()
        for turning, kept_1HCE in self._turning_buffers(cache):
            entries = kept_1HCE.index_select(2, slots_n)
            kept_1HCE.index_copy_(2, slots_n, turning.turned(entries, *waves[turning.kind]))

    def _turning_buffers(self, cache: KVCache) -> Iterator[tuple[LayerTurning, torch.Tensor]]:
        buffers = {"keys": cache.layer_keys, "values": cache.layer_values}
        for name in {turning.buffer for turning in self.layers.values()}:
            for layer, kept_1HCE in enumerate(buffers[name]()):
                if layer in self.layers and self.layers[layer].buffer == name:
                    yield self.layers[layer], kept_1HCE


def find_turning(omegas_F: Omegas, run_one: Callable[[int, float], KVCache], *, tolerance: float) -> KeyTurning | None:
    """How a model's keys turn, found by looking; None if some do in no way that is known.

    run_one: a fresh cache with entry n of some at a position. An entry that sees itself alone has keys that differ from
    place to place by their turning only, in every layer. tolerance: of keys, relative to the largest.
    """
    layers: dict[int, LayerTurning | None] = {}  # None: this layer's keys do not turn
    for probe in range(NUM_PROBES):
        with torch.no_grad():
            there, here = (_first_entries(run_one(probe, position)) for position in (PROBE_DISTANCE, 0.0))
        for layer, entries in enumerate(zip(here, there, strict=True)):
            if layer not in layers:
                with contextlib.suppress(LookupError):
                    layers[layer] = _find_in_layer(omegas_F, *entries, tolerance)
        if len(layers) == len(here):
            return KeyTurning({layer: turning for layer, turning in layers.items() if turning is not None})
    return None


def _find_in_layer(
    omegas_F: Omegas, here: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor], tolerance: float
) -> LayerTurning | None:
    """What turned between two places; LookupError if it is not known."""
    differing = [buffer for buffer in here if not _near(here[buffer], there[buffer], tolerance)]
    if not differing:
        return None
    if len(differing) > 1:
        raise LookupError
    (buffer,) = differing
    before, after = here[buffer], there[buffer]
    for kind, omega_F in omegas_F.items():
        phases_1F = torch.from_numpy(PROBE_DISTANCE * omega_F)[None]
        waves = phases_1F.cos().float().to(before.device), phases_1F.sin().float().to(before.device)
        for first in sorted({0, before.shape[-1] - 2 * len(omega_F)}):
            for is_interleaved in (False, True) if first >= 0 else ():
                found = LayerTurning(kind, is_interleaved, first, "keys" if buffer == "keys" else "values")
                if _near(found.turned(before, *waves), after, tolerance):
                    return found
    raise LookupError


def _first_entries(cache: KVCache) -> list[dict[str, torch.Tensor]]:
    """What every layer keeps of the first entry [1, H, 1, E], by buffer."""
    return [
        {"keys": keys[:, :, :1].float(), "values": values[:, :, :1].float()}
        for keys, values in zip(cache.layer_keys(), cache.layer_values(), strict=True)
    ]


def _near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    return float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
