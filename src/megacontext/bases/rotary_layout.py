"""How a model lays out what its rotary embedding gives: found by looking, one short class per way.

Shape legend: T positions, E rotated dimensions of a head, F rotated pairs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.transfers import on_device
from megacontext.errors import BaseModelError

__all__ = ["Layout", "find_layout"]


class Layout(Protocol):
    def spread_out(self, phases_TF: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Phases [T, E] of every dimension, from those of the pairs."""
        ...

    def parts(self, values: Any) -> tuple[torch.Tensor, ...]:
        """Cosines and sines [1, T, E], from what the model's module gives."""
        ...

    def as_the_model_has(self, parts: tuple[torch.Tensor, ...]) -> Any:
        """What the model's module would give, from cosines and sines."""
        ...


class _Pair:
    """A tuple of cosines and sines, as most models have it."""

    def parts(self, values: Any) -> tuple[torch.Tensor, ...]:
        cos, sin = values
        return cos, sin

    def as_the_model_has(self, parts: tuple[torch.Tensor, ...]) -> Any:
        return parts


class Halves(_Pair):
    """The two dimensions of a pair stand F apart: Llama, Qwen, Gemma and most others."""

    def spread_out(self, phases_TF: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.tile(phases_TF, (1, 2))


class SideBySide(_Pair):
    """They stand next to each other: Cohere, GLM."""

    def spread_out(self, phases_TF: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.repeat(phases_TF, 2, axis=1)


class Once(_Pair):
    """Every pair is given once: GPT-OSS."""

    def spread_out(self, phases_TF: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return phases_TF


class Complex:
    """One complex number per pair: DeepSeek-V2."""

    def spread_out(self, phases_TF: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return phases_TF

    def parts(self, values: Any) -> tuple[torch.Tensor, ...]:
        return values.real, values.imag

    def as_the_model_has(self, parts: tuple[torch.Tensor, ...]) -> Any:
        cos, sin = (part.float() for part in parts)
        return torch.complex(cos, sin)


LAYOUTS: tuple[Layout, ...] = (Halves(), SideBySide(), Once())


def find_layout(values: Any, omega_F: npt.NDArray[np.float64], scaling: float) -> Layout:
    """The layout of what a model's module gives at its first positions; BaseModelError if it is none of these."""
    candidates: tuple[Layout, ...] = LAYOUTS
    if isinstance(values, torch.Tensor) and values.is_complex():
        candidates = (Complex(),)
    elif not (isinstance(values, tuple) and len(values) == 2):
        candidates = ()
    for layout in candidates:
        cos, sin = layout.parts(values)
        phases_TE = layout.spread_out(np.multiply.outer(np.arange(cos.shape[-2], dtype=np.float64), omega_F))
        waves = on_device(cos.device, np.cos(phases_TE) * scaling, np.sin(phases_TE) * scaling)
        if cos.shape[-1] == phases_TE.shape[1] and all(
            torch.allclose(wave.float(), part[0].float(), atol=1e-2)
            for wave, part in zip(waves, (cos, sin), strict=True)
        ):
            return layout
    raise BaseModelError("the model's rotary embedding is laid out in a way that is not known; use another base")
