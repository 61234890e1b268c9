"""How sure a measured figure is: Wilson intervals for shares, standard errors for means, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError

__all__ = ["Z95", "Mean", "Share", "paired_difference", "signed_interval"]

Z95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of n trials succeeded, with the Wilson score interval, which stays honest at 0 and at n of n.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """

    successes: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.trials or self.trials == 0:
            raise InvalidValueError(f"{self.successes} of {self.trials} trials is no share; count 0 to n, n >= 1")

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Share:
        return cls(successes=sum(outcomes), trials=len(outcomes))

    @property
    def value(self) -> float:
        return self.successes / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        n, share = self.trials, self.value
        shrink = 1.0 + Z95**2 / n
        middle = (share + Z95**2 / (2 * n)) / shrink
        half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
        # at the ends the formula gives 0 and 1 only up to rounding
        low = 0.0 if self.successes == 0 else middle - half
        high = 1.0 if self.successes == n else middle + half
        return low, high


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean with its standard error; the error of a single value is unknown (infinite)."""

    value: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float] | npt.NDArray[np.float64]) -> Mean:
        array = np.asarray(values, dtype=np.float64)
        if not len(array):
            raise InvalidValueError("the mean of 0 values is not defined; measure at least one")
        error = float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else math.inf
        return cls(value=float(array.mean()), error=error, count=len(array))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.value - Z95 * self.error, self.value + Z95 * self.error

    @property
    def differs_from_zero(self) -> bool:
        low, high = self.interval
        return low > 0 or high < 0


def paired_difference(left: Sequence[float], right: Sequence[float]) -> Mean:
    """Mean of ``left - right`` over the same trials: far sharper than the difference of two means."""
    if len(left) != len(right):
        raise InvalidValueError(
            f"{len(left)} against {len(right)} trials; pairs need the same trials in the same order"
        )
    return Mean.of(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64))


def signed_interval(mean: Mean, *, unit: str = "") -> str:
    """``'+0.012 [-0.003, +0.027]'``, the value and its 95 % interval; never a minus before zeros."""
    value, low, high = (round(number, 3) + 0.0 for number in (mean.value, *mean.interval))
    return f"{value:+.3f}{unit} [{low:+.3f}, {high:+.3f}]"
