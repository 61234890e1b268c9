"""Siblings compete for entries: what each amount of them buys at best, and how it is shared out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Knapsack"]

Floats = npt.NDArray[np.float64]


@dataclass
class Knapsack:
    """Best total gain of several parts for each amount of units; ``values[s]``: with at most s units."""

    cap: int
    values: Floats = field(default_factory=lambda: np.zeros(1))
    parts: list[tuple[object, npt.NDArray[np.int32]]] = field(default_factory=list)

    def add(self, part: object, values: Floats) -> None:
        length = min(len(self.values) + len(values) - 1, self.cap + 1)
        so_far = np.pad(self.values, (0, max(0, length - len(self.values))), mode="edge")
        merged, choices = np.full(length, -np.inf), np.zeros(length, dtype=np.int32)
        values = values[:length]
        steps = np.flatnonzero(np.concatenate(([values[0] > -np.inf], values[1:] > values[:-1])))
        for units in steps.tolist():
            offered = so_far[: length - units] + values[units]
            better = offered > merged[units:]
            merged[units:][better] = offered[better]
            choices[units:][better] = units
        self.values = merged
        self.parts.append((part, choices))

    def trace(self, units: int) -> Iterator[tuple[object, int]]:
        """Each part with the units that the best way to spend ``units`` gives it."""
        for part, choices in reversed(self.parts):
            units = min(units, len(choices) - 1)
            yield part, int(choices[units])
            units -= int(choices[units])
