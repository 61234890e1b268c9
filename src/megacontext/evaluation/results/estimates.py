"""Figures with bootstrap intervals, paired differences, and the gap that a method closes.

Every figure is a ratio: nats over tokens, values found over values expected. Histories are drawn with replacement, with
everything that was asked of them, because questions about one history are not independent, and histories of the same
text are one; with fewer than ``FEWEST_HISTORIES`` of them single items are drawn instead, and intervals are too narrow.
All methods share the draws, so that differences are paired.

Percentiles of few draws are too narrow (of two methods that are equally good, one would be found better in 21 % of all
runs of four histories, in 11 % of those of eight), so what they reach to either side is stretched to what Student's t
says: 1.9 times for four, 1.3 for eight (Hesterberg 2015, What teachers should know about the bootstrap, on narrowness
bias). Where all outcomes are alike (0 of n, n of n) no draw differs; Wilson's interval stands in there, and Newcombe's
for differences. One history with one item says nothing of chance: its interval is everything.

**Closure**: the share of what full context gains over recency that a method gains too,
``(recency - method) / (recency - full)`` for nats. There is none where full context gains less than ``LEAST_GAP``: the
quotient of two small numbers says nothing. Where one of the draws gains less, there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.evaluation.intervals import Z95, Share, student_t
from megacontext.evaluation.runs.records import Record
from megacontext.evaluation.runs.trials import ItemResult

__all__ = ["INTERVALS", "LEAST_GAP", "Estimate", "Outcomes", "stretch"]

INTERVALS = "95 %, bootstrap over histories, stretched to Student's t"
LEAST_GAP = 0.1
FEWEST_HISTORIES = 3
NUM_DRAWS = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval; count: tokens, values or choices behind it; units: histories or items drawn."""

    value: float
    low: float
    high: float
    count: int
    units: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Outcomes:
    """What all methods reached on one metric in some part of a task.

    selects: which items belong to the part; is_share: whether outcomes are 0 or 1 by nature (for Wilson's interval).
    """

    def __init__(
        self,
        records: Sequence[Record],
        metric: str,
        *,
        selects: Callable[[Record, ItemResult], bool] = lambda record, item: True,
        is_share: bool = False,
        seed: int = 0,
    ) -> None:
        self._is_share = is_share
        self._seed = seed
        self._histories: dict[str, str] = {}
        found: dict[str, dict[tuple[str, int, int], tuple[float, int]]] = {}
        for record in records:
            self._histories[record.key] = record.history or record.key
            for number, item in enumerate(record.items):
                if metric in item.measures and selects(record, item):
                    found.setdefault(record.method, {})[record.key, record.budget, number] = item.measures[metric]
        self._found = found

    @property
    def methods(self) -> list[str]:
        return list(self._found)

    def estimate(self, method: str) -> Estimate | None:
        """The figure of one method; None if it has none."""
        if method not in self._found:
            return None
        totals, counts = self._units([method])
        if not counts[0].sum():
            return None
        value = float(totals[0].sum() / counts[0].sum())
        low, high = self._within_shares(value, self._draw(totals, counts)[0], least=0.0, num_units=len(counts[0]))
        if self._is_share and value in (0.0, 1.0):
            low, high = Share(successes=round(value * len(counts[0])), trials=len(counts[0])).interval
        return Estimate(value=value, low=low, high=high, count=int(counts[0].sum()), units=len(counts[0]))

    def difference(self, left: str, right: str) -> Estimate | None:
        """``left - right`` on what both were tried on."""
        if left == right or left not in self._found or right not in self._found:
            return None
        totals, counts = self._units([left, right])
        if not counts.size or not counts.sum(axis=1).all():
            return None
        values = totals.sum(axis=1) / counts.sum(axis=1)
        draws = self._draw(totals, counts)
        value, num_units = float(values[0] - values[1]), counts.shape[1]
        low, high = self._within_shares(value, draws[0] - draws[1], least=-1.0, num_units=num_units)
        if self._is_share and low == high:
            low, high = _score_interval(values, num_units)
        return Estimate(value=value, low=low, high=high, count=int(counts[0].sum()), units=num_units)

    def closure(self, method: str, *, floor: str = "recency", full: str = "full") -> Estimate | None:
        """The share of the gap between ``floor`` and ``full`` that a method closes; None where there is no gap."""
        if not {method, floor, full} <= set(self._found) or method in (floor, full):
            return None
        totals, counts = self._units([floor, method, full])
        if not counts.size or not counts.sum(axis=1).all():
            return None
        first, own, limit = totals.sum(axis=1) / counts.sum(axis=1)
        gap = limit - first if self._is_share else first - limit
        if gap < LEAST_GAP:
            return None
        draws = self._draw(totals, counts)
        gaps = draws[2] - draws[0] if self._is_share else draws[0] - draws[2]
        value, low, high = float((own - first) / (limit - first)), -math.inf, math.inf
        if (gaps >= LEAST_GAP).all():
            low, high = _interval(value, (draws[1] - draws[0]) / (draws[2] - draws[0]), num_units=counts.shape[1])
        return Estimate(
            value=value,
            low=low,
            high=high,
            count=int(counts[1].sum()),
            units=counts.shape[1],
        )

    def gap(self, *, floor: str = "recency", full: str = "full") -> Estimate | None:
        """What there is to close: the denominator of closure."""
        gap = self.difference(floor, full)
        if gap is None or not self._is_share:
            return gap
        return Estimate(value=-gap.value, low=-gap.high, high=-gap.low, count=gap.count, units=gap.units)

    def _units(self, methods: Sequence[str]) -> tuple[Floats, Floats]:
        """Totals and counts [methods, units] of what all of them were tried on."""
        shared = sorted(set.intersection(*(set(self._found[method]) for method in methods)))
        names = sorted({self._histories[key] for key, _, _ in shared})
        if len(names) < FEWEST_HISTORIES:
            items = sorted({(self._histories[key], budget, number) for key, budget, number in shared})
            by_item = {item: row for row, item in enumerate(items)}
            rows = {place: by_item[self._histories[place[0]], place[1], place[2]] for place in shared}
        else:
            by_history = {name: row for row, name in enumerate(names)}
            rows = {place: by_history[self._histories[place[0]]] for place in shared}
        num_units = max(rows.values(), default=-1) + 1
        totals, counts = np.zeros((2, len(methods), num_units))
        for number, method in enumerate(methods):
            for place in shared:
                total, count = self._found[method][place]
                totals[number, rows[place]] += total
                counts[number, rows[place]] += count
        return totals, counts

    def _within_shares(self, value: float, draws: Floats, *, least: float, num_units: int) -> tuple[float, float]:
        """The interval; of shares not below ``least`` nor above 1."""
        low, high = _interval(value, draws, num_units=num_units)
        return (max(low, least), min(high, 1.0)) if self._is_share and num_units > 1 else (low, high)

    def _draw(self, totals: Floats, counts: Floats) -> Floats:
        """The figures [methods, draws] of units drawn with replacement."""
        num_units = totals.shape[1]
        weights = np.random.default_rng(self._seed).multinomial(
            num_units, np.full(num_units, 1 / num_units), size=NUM_DRAWS
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            figures: Floats = (totals @ weights.T) / (counts @ weights.T)
        return figures


def stretch(value: float, edge: float, num_units: int) -> float:
    """Where the percentile of so many drawn units, two or more, stands once it is stretched."""
    factor = student_t(num_units - 1) / Z95 * math.sqrt(num_units / (num_units - 1))
    return value + factor * (edge - value)


def _score_interval(values: Floats, num_units: int) -> tuple[float, float]:
    """Newcombe's interval of the difference of two shares, from the Wilson interval of each (1998, method 10)."""
    shares = [Share(successes=round(value * num_units), trials=num_units) for value in values.tolist()]
    (low_a, high_a), (low_b, high_b) = (share.interval for share in shares)
    a, b = (share.value for share in shares)
    return a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)


def _interval(value: float, draws: Floats, *, num_units: int) -> tuple[float, float]:
    """95 % around a value: percentiles of the draws, stretched from so many units to what Student's t allows."""
    finite = draws[np.isfinite(draws)]
    if num_units < 2 or not len(finite):
        return -math.inf, math.inf
    low, high = np.percentile(finite, [2.5, 97.5]).tolist()
    return stretch(value, min(low, value), num_units), stretch(value, max(high, value), num_units)
