"""Limits on edits: the same choice as by going through it one region after another, for every cutoff anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError
from megacontext.focus.allocators.hysteresis import NUM_CUTOFFS, limit_edits
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.scores import UtilityField
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import AllocatorConfig, FocusScores
from megacontext.tree.cuts import Cut, cut_cost
from megacontext.tree.geometry import TreeGeometry


def regions_of(current, target):
    """Where the cuts differ: (rows of the old cut, rows of the new one), as lists."""
    old, new = current.rows(), target.rows()
    edges = sorted({row[1] for row in old} & {row[1] for row in new})
    found = []
    for start, stop in zip(edges, [*edges[1:], max(row[2] for row in old)], strict=True):
        before, after = ([row for row in rows if start <= row[1] < stop] for rows in (old, new))
        if before != after:
            found.append((before, after))
    return found


def slow_limits(current, target, field, config, gist_width):
    """One cutoff after another, each sorted anew, every list cut piece by piece."""
    regions = regions_of(current, target)
    if not regions:
        return current

    def cost(rows):
        return cut_cost(Cut.of(rows), gist_width)

    def worth(rows):
        cut = Cut.of(rows)
        return float((field.over(cut.starts, cut.stops) * config.gist_value**cut.levels).sum())

    costs = [cost(after) - cost(before) for before, after in regions]
    gains = [worth(after) - worth(before) for before, after in regions]
    window = cut_cost(current, gist_width)
    positions = [cost([row for row in current.rows() if row[1] < before[0][1]]) for before, _ in regions]
    free = config.budget_entries - window
    cutoffs = [0]
    if config.edit_cost:
        cutoffs = sorted({0, *sorted(range(len(gains)), key=lambda region: -gains[region])[:NUM_CUTOFFS]})
    best, best_worth = (set(), 0.0) if free >= 0 else (None, -np.inf)
    for cutoff in cutoffs:
        chosen = slow_choice(costs, gains, cutoff, free, config.max_edits or len(regions))
        if not chosen:
            continue
        found = sum(gains[region] for region in chosen) - config.edit_cost * (window - positions[min(chosen)])
        if found > best_worth:
            best, best_worth = chosen, found
    if best is None:
        return target
    gone = {row for region in best for row in regions[region][0]}
    come = [row for region in best for row in regions[region][1]]
    return Cut.of(sorted([*(row for row in current.rows() if row not in gone), *come], key=lambda row: row[1]))


def slow_choice(costs, gains, cutoff, free, max_edits):
    rows = range(cutoff, len(costs))
    closes = sorted((row for row in rows if costs[row] < 0), key=lambda row: gains[row] / costs[row])
    opens = sorted((row for row in rows if costs[row] > 0), key=lambda row: -gains[row] / costs[row])
    chosen = set()
    while free < 0 and closes:
        free -= costs[closes[0]]
        chosen.add(closes.pop(0))
    if free < 0:
        return None
    for opening in opens:
        payers, room = [], free - costs[opening]
        while room < 0 and len(payers) < len(closes):
            payers.append(closes[len(payers)])
            room -= costs[payers[-1]]
        lost = -sum(gains[payer] for payer in payers)
        if room >= 0 and len(chosen) + 1 + len(payers) <= max_edits and gains[opening] > lost:
            chosen |= {opening, *payers}
            closes, free = closes[len(payers) :], room
    return chosen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    block_tokens=st.sampled_from([8, 16]),
    gist_width=st.integers(1, 2),
    max_edits=st.sampled_from([0, 1, 3, 12]),
    edit_cost=st.sampled_from([0.0, 1e-4, 1e-2, 0.5]),
    less=st.sampled_from([0, 0, 20]),
)
def test_limits_choose_as_the_slow_way_does(seed, block_tokens, gist_width, max_edits, edit_cost, less):
    random = np.random.default_rng(seed)
    config = WorkingContextConfig(budget_entries=260, sink_tokens=0, recent_tokens=0)
    num_tokens = int(random.integers(300, 4000))
    wc = WorkingContext(TreeGeometry(block_tokens), gist_width=gist_width, num_tokens=num_tokens, config=config)
    for start in random.integers(0, num_tokens, 12).tolist():
        try:
            wc.reveal(start, start + 1)
        except BudgetError:
            continue
    # whole numbers over powers of two: sums are exact in any order, and ties are ties
    scores = FocusScores(utility=random.integers(0, 9, wc.num_entries) * (wc.stops - wc.starts) / 4.0)
    free = AllocatorConfig(budget_entries=max(260 - less, wc.smallest_budget), gist_value=0.5)
    target = Cut(*make_allocator("greedy").allocate(wc.view(), scores, free))
    limited = AllocatorConfig(
        budget_entries=free.budget_entries, gist_value=0.5, max_edits=max_edits, edit_cost=edit_cost
    )
    field = UtilityField(wc.view(), scores)
    ours = limit_edits(wc.cut, target, field, limited, gist_width=gist_width)
    if not max_edits and not edit_cost:
        assert ours == target
    else:
        assert ours.rows() == slow_limits(wc.cut, target, field, limited, gist_width).rows()
