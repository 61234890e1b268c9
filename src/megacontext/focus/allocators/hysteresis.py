"""Fewer edits than the best cut would need: a limit on their number, and a price for those early in the window.

The regions where two cuts differ are disjoint and each is one edit: an old entry that is opened, or a new entry that
stands for several old ones. Any selection of them gives a legal cut, as long as the closes pay for the opens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import AllocatorConfig
from megacontext.tree.cuts import Cut, concatenate_cuts, cut_cost, entry_costs

__all__ = ["limit_edits"]

Ints = npt.NDArray[np.int64]
NUM_CUTOFFS = 8  # the most valuable edits, each of which may be the earliest one


@dataclass(frozen=True)
class _Regions:
    """Where the cuts differ, in order: rows of the old cut, rows of the new one, window position in the old one,
    entries more that the new one costs, and how much more it is worth."""

    old_first: Ints
    old_end: Ints
    new_first: Ints
    new_end: Ints
    positions: Ints
    costs: Ints
    gains: npt.NDArray[np.float64]


def limit_edits(current: Cut, target: Cut, field: UtilityField, config: AllocatorConfig, *, gist_width: int) -> Cut:
    """The best cut between ``current`` and ``target`` that the limits of ``config`` allow.

    Returning to the budget comes first: the edits that need be are made, whatever the limits.
    """
    if not config.max_edits and not config.edit_cost:
        return target
    regions = _regions(current, target, field, config.gist_value, gist_width)
    if not len(regions.costs):
        return current
    window = cut_cost(current, gist_width)
    free = config.budget_entries - window
    best: npt.NDArray[np.bool_] | None = np.zeros(len(regions.costs), dtype=np.bool_) if free >= 0 else None
    best_worth = 0.0 if free >= 0 else -np.inf
    cutoffs = [0]
    if config.edit_cost:
        cutoffs = sorted({0, *np.argsort(-regions.gains, kind="stable")[:NUM_CUTOFFS].tolist()})
    ranked = _Ranked.of(regions)
    for cutoff in cutoffs:
        chosen = ranked.select(cutoff, free, config.max_edits or len(regions.costs))
        if chosen is None or not chosen.any():
            continue
        recomputed = window - int(regions.positions[np.argmax(chosen)])
        worth = float(regions.gains[chosen].sum()) - config.edit_cost * recomputed
        if worth > best_worth:
            best, best_worth = chosen, worth
    return target if best is None else _blend(current, target, regions, best)


def _regions(current: Cut, target: Cut, field: UtilityField, gist_value: float, gist_width: int) -> _Regions:
    edges = np.intersect1d(current.starts, target.starts, assume_unique=True)
    old_first, new_first = np.searchsorted(current.starts, edges), np.searchsorted(target.starts, edges)
    old_end, new_end = np.append(old_first[1:], len(current)), np.append(new_first[1:], len(target))
    changed = np.flatnonzero(current.levels[old_first] != target.levels[new_first])
    old_first, old_end, new_first, new_end = (rows[changed] for rows in (old_first, old_end, new_first, new_end))
    sums = []
    for cut in (current, target):
        costs = np.concatenate(([0], np.cumsum(entry_costs(cut, gist_width))))
        worth = field.over(cut.starts, cut.stops) * gist_value**cut.levels
        sums.append((costs, np.concatenate(([0.0], np.cumsum(worth)))))
    (old_costs, old_worth), (new_costs, new_worth) = sums
    return _Regions(
        old_first,
        old_end,
        new_first,
        new_end,
        positions=old_costs[old_first],
        costs=new_costs[new_end] - new_costs[new_first] - (old_costs[old_end] - old_costs[old_first]),
        gains=new_worth[new_end] - new_worth[new_first] - (old_worth[old_end] - old_worth[old_first]),
    )


@dataclass(frozen=True)
class _Ranked:
    """The regions as they are chosen, ranked once for all cutoffs: opens by gain per entry, closes by loss per
    entry that they save. costs, gains: of each region, as plain numbers, which loops read faster."""

    opens: Ints
    closes: Ints
    costs: list[int]
    gains: list[float]

    @classmethod
    def of(cls, regions: _Regions) -> _Ranked:
        rates = regions.gains / regions.costs  # of closes both are negative
        opens, closes = np.flatnonzero(regions.costs > 0), np.flatnonzero(regions.costs < 0)
        return cls(
            opens[np.argsort(-rates[opens], kind="stable")],
            closes[np.argsort(rates[closes], kind="stable")],
            regions.costs.tolist(),
            regions.gains.tolist(),
        )

    def select(self, cutoff: int, free: int, max_edits: int) -> npt.NDArray[np.bool_] | None:
        """Opens in order, each paid for by the closes that are next; None if the budget cannot be reached with regions
        from ``cutoff`` on."""
        costs, gains = self.costs, self.gains
        opens, closes = (rows[rows >= cutoff].tolist() for rows in (self.opens, self.closes))
        chosen: list[int] = []
        num_closed = 0  # the first ones
        while free < 0 and num_closed < len(closes):
            free -= costs[closes[num_closed]]
            num_closed += 1
        if free < 0:
            return None
        for opening in opens:
            needed, payers, room = 0.0, num_closed, free - costs[opening]
            while room < 0 and payers < len(closes):
                needed -= gains[closes[payers]]
                room -= costs[closes[payers]]
                payers += 1
            if room < 0 or len(chosen) + payers + 1 > max_edits or gains[opening] <= needed:
                continue
            chosen.append(opening)
            free, num_closed = room, payers
        is_chosen = np.zeros(len(costs), dtype=np.bool_)
        is_chosen[chosen + closes[:num_closed]] = True
        return is_chosen


def _blend(current: Cut, target: Cut, regions: _Regions, chosen: npt.NDArray[np.bool_]) -> Cut:
    """The current cut, with the chosen regions as the target has them."""
    kept = ~_rows_within(len(current), regions.old_first[chosen], regions.old_end[chosen])
    new = _rows_within(len(target), regions.new_first[chosen], regions.new_end[chosen])
    both = concatenate_cuts([current[kept], target[new]])
    return both[np.argsort(both.starts, kind="stable")]


def _rows_within(num_rows: int, first: Ints, end: Ints) -> npt.NDArray[np.bool_]:
    """Which rows lie within spans that do not overlap."""
    borders = np.zeros(num_rows + 1, dtype=np.int64)
    borders[first] += 1
    borders[end] -= 1
    within: npt.NDArray[np.bool_] = np.cumsum(borders[:-1]) > 0
    return within
