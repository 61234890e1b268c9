"""Rotary embedding at explicit positions: real-valued, and far beyond what float32 phases can tell apart.

transformers multiplies positions by frequencies in float32; at position 2^24 neighbours share one phase. Positions
that the model was made for (whole numbers below its ``max_position_embeddings``) take the model's own values, so that
a window of plain tokens is bit for bit the plain model; all others are computed from float64 phases.

Some models scale their frequencies by how long the window is (``dynamic``, ``longrope``). A key that was computed once
must not be wrong later, so a window keeps one set of frequencies for its whole life: those of the longest that it may
become (``frequencies``).

Shape legend: T positions, E rotated dimensions of a head, F rotated pairs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megacontext.bases.rotary_layout import Layout, find_layout
from megacontext.bases.transfers import on_device
from megacontext.errors import BaseModelError, InvalidValueError

__all__ = ["ExplicitRotary", "Frequencies"]

# Frequencies of these depend on how long the window is.
LENGTH_DEPENDENT = ("dynamic", "longrope")
# What the rotary embedding of the running forward gives away, by the kind of layer that asks ('' if there is but one).
_PREPARED: ContextVar[Mapping[str, Any] | None] = ContextVar("prepared rotary values", default=None)


@dataclass(frozen=True)
class _Wave:
    """How the layers of one kind rotate, for windows of one length."""

    original: nn.Module  # the model's own module, with the frequencies of that length
    layer_type: str  # what the module is asked for; '' if it knows no kinds
    kind: str
    inv_freq_F: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    scaling: float
    layout: Layout


class Frequencies:
    """What rotates the entries of a window, the same for all its life. ``omegas_F``: radians a position of each
    rotated pair, by kind of layer ('' where all rotate alike)."""

    @classmethod
    def joined(cls, parts: Sequence[Frequencies]) -> Frequencies:
        """Of a model whose kinds of layers have a module each."""
        waves = [wave for part in parts for wave in part._waves]
        return cls(waves, max_positions=parts[0]._max_positions, example=parts[0]._example)

    def __init__(self, waves: list[_Wave], *, max_positions: int, example: torch.Tensor) -> None:
        self._waves = waves
        self._max_positions = max_positions
        self._example = example
        self.omegas_F = {wave.kind: wave.inv_freq_F for wave in waves}
        self._tables = {wave.kind: _own_values(wave, example, min(64, max_positions)) for wave in waves}

    def at(self, positions_T: npt.NDArray[np.float64]) -> dict[str, Any]:
        """What the model's rotary embedding gives at these positions, by kind of layer, as the model lays it out.
        InvalidValueError for NaN or infinite positions."""
        if not np.isfinite(positions_T).all():
            raise InvalidValueError("positions hold NaN or infinity; give finite numbers")
        return {wave.kind: wave.layout.as_the_model_has(self._values(wave, positions_T)) for wave in self._waves}

    def at_rows(self, positions_B: npt.NDArray[np.float64]) -> dict[str, Any]:
        """The same for B rows of one entry each."""
        return {
            wave.kind: wave.layout.as_the_model_has(
                tuple(part.transpose(0, 1) for part in self._values(wave, positions_B))
            )
            for wave in self._waves
        }

    def _values(self, wave: _Wave, positions_T: npt.NDArray[np.float64]) -> tuple[torch.Tensor, ...]:
        """The parts [1, T, E] of which the model's own values consist."""
        own = (positions_T >= 0) & (positions_T < self._max_positions) & (positions_T == np.floor(positions_T))
        if not own.any():
            return self._from_phases(wave, positions_T)
        needed = int(positions_T[own].max()) + 1
        if needed > self._tables[wave.kind][0].shape[1]:
            size = min(1 << (needed - 1).bit_length(), self._max_positions)
            self._tables[wave.kind] = _own_values(wave, self._example, size)
        table = self._tables[wave.kind]
        first = int(positions_T[0])
        if own.all():
            if (np.diff(positions_T) == 1).all():
                return tuple(part[:, first : first + len(positions_T)] for part in table)
            (rows,) = on_device(self._example.device, positions_T.astype(np.int64))
            return tuple(part[:, rows] for part in table)
        rows_T = np.where(own, positions_T, 0).astype(np.int64)
        rows, is_own, *far = on_device(self._example.device, rows_T, own, *self._phases(wave, positions_T))
        return tuple(
            torch.where(is_own[None, :, None], part[:, rows], computed.to(part))
            for part, computed in zip(table, far, strict=True)
        )

    def _from_phases(self, wave: _Wave, positions_T: npt.NDArray[np.float64]) -> tuple[torch.Tensor, ...]:
        computed = on_device(self._example.device, *self._phases(wave, positions_T))
        table = self._tables[wave.kind]
        return tuple(there.to(part.dtype) for there, part in zip(computed, table, strict=True))

    def _phases(self, wave: _Wave, positions_T: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        """Cosines and sines [1, T, E] of float64 phases."""
        phases_TF = np.multiply.outer(positions_T, wave.inv_freq_F)
        phases_1TE = wave.layout.spread_out(phases_TF)[None]
        return np.cos(phases_1TE) * wave.scaling, np.sin(phases_1TE) * wave.scaling


class ExplicitRotary(nn.Module):
    """Stands in for a model's ``rotary_emb``: within ``serving`` it gives what was prepared, else the original's own.
    No state is kept between calls, so sessions may share a model.

    original: the module at model level; max_positions: what the model was made for; name: apart from other modules of
    the same model.
    """

    def __init__(
        self, original: nn.Module, *, max_positions: int, dtype: torch.dtype, device: torch.device, name: str = ""
    ) -> None:
        super().__init__()
        self.original = original
        self.config: Any = getattr(original, "config", None)
        self._name = name
        self._max_positions = max_positions
        self._example = torch.empty(0, dtype=dtype, device=device)
        self._kinds = tuple(getattr(original, "layer_types", None) or ("",))
        self._by_length: dict[int, Frequencies] = {}
        self.frequencies(1)  # refuses layouts that are not known, now

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        prepared = _PREPARED.get()
        if prepared is not None:
            return prepared[self._name + (layer_type or "")]
        kind = () if layer_type is None else (layer_type,)
        return self.original(x, position_ids, *kind)

    @contextmanager
    def serving(self, prepared: Mapping[str, Any]) -> Iterator[None]:
        """Within the block, in this thread, every forward of the model rotates by these values."""
        token = _PREPARED.set(prepared)
        try:
            yield
        finally:
            _PREPARED.reset(token)

    def frequencies(self, num_entries: int) -> Frequencies:
        """What rotates a window of up to so many entries."""
        key = self._length_class(num_entries)
        found = self._by_length.get(key)
        if found is None:
            waves = [self._wave(kind, key) for kind in self._kinds]
            found = Frequencies(waves, max_positions=self._max_positions, example=self._example)
            self._by_length[key] = found
        return found

    def _length_class(self, num_entries: int) -> int:
        """The least length whose frequencies are those of this one; 0 where they never change."""
        lengths = []
        for kind in self._kinds:
            rope_type, parameters = self._rope_of(kind)
            if rope_type == "dynamic" and num_entries > self._trained(parameters):
                lengths.append(num_entries)
            if rope_type == "longrope" and num_entries > self._trained(parameters):
                lengths.append(self._trained(parameters) + 1)
        return max(lengths, default=0)

    def _rope_of(self, kind: str) -> tuple[str, dict[str, Any]]:
        rope_type: Any = getattr(self.original, "rope_type", "default")
        parameters: Any = getattr(self.config, "rope_parameters", None) or {}
        return (rope_type[kind], parameters[kind]) if kind else (rope_type, parameters)

    def _trained(self, parameters: dict[str, Any]) -> int:
        """Up to which length the frequencies are those of training."""
        trained = parameters.get("original_max_position_embeddings")
        return int(trained or self.config.max_position_embeddings)

    def _wave(self, kind: str, length: int) -> _Wave:
        original = self.original
        prefix = f"{kind}_" if kind else ""
        if length and self._rope_of(kind)[0] in LENGTH_DEPENDENT:
            original = copy.deepcopy(original)
            inv_freq, scaling = ROPE_INIT_FUNCTIONS[self._rope_of(kind)[0]](
                original.config, self._example.device, seq_len=length, **({"layer_type": kind} if kind else {})
            )
            getattr(original, f"{prefix}inv_freq").copy_(inv_freq)
            setattr(original, f"{prefix}attention_scaling", scaling)
        inv_freq = getattr(original, f"{prefix}inv_freq", None)
        if not isinstance(inv_freq, torch.Tensor):
            raise BaseModelError("the model's rotary embedding has no frequencies (inv_freq); use another base")
        omega_F = inv_freq.double().cpu().numpy()
        scaling = float(getattr(original, f"{prefix}attention_scaling", 1.0))
        layout = find_layout(_call(original, kind, self._example, min(8, self._max_positions)), omega_F, scaling)
        return _Wave(original, kind, self._name + kind, omega_F, scaling, layout)


def _own_values(wave: _Wave, example: torch.Tensor, num_positions: int) -> tuple[torch.Tensor, ...]:
    """The parts [1, num_positions, E] of what the model computes itself."""
    return wave.layout.parts(_call(wave.original, wave.layer_type, example, num_positions))


def _call(original: nn.Module, kind: str, example: torch.Tensor, num_positions: int) -> Any:
    """The original's own computation at the first positions, with the frequencies that it has: what it would do to them
    in view of the positions is left out."""
    positions = torch.arange(num_positions, device=example.device)[None]
    compute = inspect.unwrap(type(original).forward)
    with torch.no_grad():
        return compute(original, example, positions, *((kind,) if kind else ()))
