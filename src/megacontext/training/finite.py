"""Weights that are no numbers: told of the tensor that is at fault, before anything is trained or written with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from megacontext.bases.weight_values import is_finite
from megacontext.errors import CorruptionError

__all__ = ["check_finite", "first_not_finite"]


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, None if none does."""
    return next((name for name, weight in weights.items() if not is_finite(weight)), None)


def check_finite(weights: Mapping[str, Tensor], path: Path, *, fix: str = "take another copy") -> None:
    """CorruptionError, which names tensor and file, if one holds NaN or infinity."""
    if (name := first_not_finite(weights)) is not None:
        raise CorruptionError(f"{name} of {path} holds values that are no numbers; {fix}")
