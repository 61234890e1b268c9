"""How sure a measured figure is: Wilson intervals for shares, Student's t for means, paired differences.

With few trials the normal quantile is too narrow: of two methods that are equally good, 1.96 standard errors find one
better in 30 % of all runs of two trials, in 14 % of those of four and 8 % of those of twelve. Right and wrong are too
few values for t where trials are few, so there wins are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError

__all__ = ["Z95", "Mean", "Share", "paired_difference", "signed_interval", "student_t", "wins_may_be_chance"]

Z95 = 1.959964
FEW_FREEDOM = (math.inf, 12.706205, 4.302653, 3.182446, 2.776445, 2.570582)  # Student's t by degrees of freedom
FEWEST_ALIKE = 6  # differences that chance puts all on one side of 0 in less than 5 % of the cases: 2 / 2 ** 6


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
        """The 95 % interval, by Student's t."""
        half = student_t(self.count - 1) * self.error
        return self.value - half, self.value + half

    @property
    def differs_from_zero(self) -> bool:
        """Whether the interval keeps clear of 0. Values that are all alike have no error to judge by: they must be
        many enough not to lie on one side by chance."""
        if self.error <= 1e-9 * abs(self.value) and self.count < FEWEST_ALIKE:
            return False
        low, high = self.interval
        return low > 0 or high < 0


def student_t(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, right to 0.0002; infinite without a degree of freedom.

    Source: Abramowitz and Stegun (1964), 26.7.5, which expands it around the normal quantile.

    >>> round(student_t(3), 3), round(student_t(11), 3), round(student_t(59), 3)
    (3.182, 2.201, 2.001)
    """
    if freedom < len(FEW_FREEDOM):
        return FEW_FREEDOM[freedom]
    z = Z95
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / float(freedom) ** power for power, term in enumerate(terms))


def wins_may_be_chance(left: Sequence[bool], right: Sequence[bool]) -> bool:
    """Whether two equally good methods, tried on the same, would differ as much in at least 5 % of the cases.

    What both got right, or neither, says nothing; of the others each wins half by chance (McNemar's exact test). It
    needs at least six of them. Source: McNemar (1947), Note on the sampling error of the difference between correlated
    proportions or percentages.

    Raises InvalidValueError if they are not as many.
    """
    _check_pairs(left, right)
    wins = sum(ours and not theirs for ours, theirs in zip(left, right, strict=True))
    losses = sum(theirs and not ours for ours, theirs in zip(left, right, strict=True))
    as_few = sum(math.comb(wins + losses, count) for count in range(min(wins, losses) + 1))
    return 2 * 20 * as_few >= 1 << (wins + losses)  # two-sided, 5 %; integers do not overflow


def paired_difference(left: Sequence[float], right: Sequence[float]) -> Mean:
    """Mean of ``left - right`` over the same trials: far sharper than the difference of two means.

    Raises InvalidValueError if they are not as many.
    """
    _check_pairs(left, right)
    return Mean.of(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64))


def signed_interval(mean: Mean, *, unit: str = "") -> str:
    """``'+0.012 [-0.003, +0.027]'``, the value and its 95 % interval; never a minus before zeros."""
    value, low, high = (round(number, 3) + 0.0 for number in (mean.value, *mean.interval))
    return f"{value:+.3f}{unit} [{low:+.3f}, {high:+.3f}]"


def _check_pairs(left: Sequence[object], right: Sequence[object]) -> None:
    if len(left) != len(right):
        raise InvalidValueError(
            f"{len(left)} against {len(right)} trials; pairs need the same trials in the same order"
        )
