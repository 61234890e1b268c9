"""Rotary embedding at explicit positions: real-valued, and far beyond what float32 phases can tell apart.

transformers multiplies positions by frequencies in float32; at position 2^24 neighbours share one phase. Positions
that the model was made for (whole numbers below its ``max_position_embeddings``) take the model's own values, so that
a window of plain tokens is bit for bit the plain model; all others are computed from float64 phases.

Shape legend: T positions, E rotated dimensions of a head, F = E / 2 frequencies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from megacontext.bases.transfers import on_device
from megacontext.errors import BaseModelError, InvalidValueError

__all__ = ["ExplicitRotary"]


class ExplicitRotary(nn.Module):
    """Stands in for a model's ``rotary_emb``; position ids that ``position_ids`` made carry their own cos and sin, any
    others go to the original. No state is kept between the two, so sessions may share a model."""

    def __init__(self, original: nn.Module, *, max_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.original = original
        self._max_positions = max_positions
        self._example = torch.empty(0, dtype=dtype, device=device)
        inv_freq = original.inv_freq
        assert isinstance(inv_freq, torch.Tensor)
        self._inv_freq_F = inv_freq.double().cpu().numpy()
        self._scaling = float(getattr(original, "attention_scaling", 1.0))
        self._table = self._own_values(min(64, max_positions))
        self._interleaved = self._find_layout()

    @property
    def omega_F(self) -> npt.NDArray[np.float64]:  # noqa: N802 - shape suffix
        """Radians that each rotated pair turns in a position."""
        return self._inv_freq_F

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prepared: tuple[torch.Tensor, torch.Tensor] | None = getattr(position_ids, "cos_sin", None)
        if prepared is not None:
            return prepared
        cos, sin = self.original(x, position_ids)
        return cos, sin

    def position_ids(self, positions_T: npt.NDArray[np.float64]) -> torch.Tensor:
        """Position ids [1, T] to give to the model. InvalidValueError for NaN or infinite positions."""
        if not np.isfinite(positions_T).all():
            raise InvalidValueError("positions hold NaN or infinity; give finite numbers")
        # the rounded values are for whatever else a model does with position ids; rotation uses cos_sin
        ids = torch.zeros((1, len(positions_T)), dtype=torch.long, device=self._example.device)
        ids.cos_sin = self._cos_sin(positions_T)  # type: ignore[attr-defined]
        return ids

    def position_ids_of_rows(self, positions_B: npt.NDArray[np.float64]) -> torch.Tensor:
        """The same for rows of one entry each, [B, 1]."""
        in_a_row = self.position_ids(positions_B)
        ids = in_a_row.T.contiguous()
        ids.cos_sin = tuple(part.transpose(0, 1) for part in in_a_row.cos_sin)  # type: ignore[attr-defined]
        return ids

    def _cos_sin(self, positions_T: npt.NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        own = (positions_T >= 0) & (positions_T < self._max_positions) & (positions_T == np.floor(positions_T))
        if not own.any():
            return self._from_phases(positions_T)
        needed = int(positions_T[own].max()) + 1
        if needed > self._table[0].shape[1]:
            self._table = self._own_values(min(1 << (needed - 1).bit_length(), self._max_positions))
        cos, sin = self._table
        first = int(positions_T[0])
        if own.all():
            if (np.diff(positions_T) == 1).all():
                return cos[:, first : first + len(positions_T)], sin[:, first : first + len(positions_T)]
            (rows,) = on_device(cos.device, positions_T.astype(np.int64))
            return cos[:, rows], sin[:, rows]
        rows_T = np.where(own, positions_T, 0).astype(np.int64)
        rows, is_own, *far = on_device(cos.device, rows_T, own, *self._waves(positions_T))
        cos_sin = [
            torch.where(is_own[None, :, None], table[:, rows], wave.to(table))
            for table, wave in zip(self._table, far, strict=True)
        ]
        return cos_sin[0], cos_sin[1]

    def _own_values(self, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [1, num_positions, E] as the model computes them."""
        positions = torch.arange(num_positions, device=self._example.device)[None]
        with torch.no_grad():
            cos, sin = self.original(self._example, position_ids=positions)
        return cos, sin

    def _from_phases(self, positions_T: npt.NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = on_device(self._example.device, *self._waves(positions_T))
        return cos.to(self._example), sin.to(self._example)

    def _waves(self, positions_T: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Cosines and sines [1, T, E] of float64 phases."""
        phases_TF = np.multiply.outer(positions_T, self._inv_freq_F)
        phases_1TE = (np.repeat(phases_TF, 2, axis=1) if self._interleaved else np.tile(phases_TF, (1, 2)))[None]
        return np.cos(phases_1TE) * self._scaling, np.sin(phases_1TE) * self._scaling

    def _find_layout(self) -> bool:
        """Whether the two halves of a rotated pair lie side by side, found by comparing with the model's own."""
        cos, _ = self._table
        num_positions = min(8, cos.shape[1])
        for interleaved in (False, True):
            self._interleaved = interleaved
            ours, _ = self._from_phases(np.arange(num_positions, dtype=np.float64))
            if ours.shape[2] == cos.shape[2] and torch.allclose(ours, cos[:, :num_positions], atol=1e-2):
                return interleaved
        raise BaseModelError("the model's rotary embedding is laid out in a way that is not known; use another base")
