"""Best utility per entry first: near-optimal cuts in a few vector operations.

Opening a node costs entries and gains utility. Whole paths count: a node whose own gain is small but under which a
nominated block lies is worth as much per entry as the best part of its subtree, so it is opened together with it
(Horn, "Single-machine job sequencing with treelike precedence ordering", 1972). Opening in falling order of that
ratio until the budget is spent is within one item of the fractional optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.focus.allocators.forest import Forest, Ints, build_forest, forced_nodes
from megacontext.focus.allocators.hysteresis import limit_edits
from megacontext.focus.allocators.offers import Offers, cut_from_opened
from megacontext.focus.allocators.value import check_config
from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import AllocatorConfig, CutView, FocusScores
from megacontext.tree.covers import smallest_budget
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry

__all__ = ["GreedyAllocator"]

Floats = npt.NDArray[np.float64]


class GreedyAllocator:
    """Opens what gains most per entry; keeps what is open when the gain of a swap is small."""

    name = "greedy"

    def allocate(self, cut: CutView, scores: FocusScores, config: AllocatorConfig) -> tuple[Ints, Ints, Ints]:
        """The target cut; see ``ports.focus.Allocator``."""
        check_config(config)
        tree = TreeGeometry(cut.block_tokens)
        field = UtilityField(cut, scores)
        forest = build_forest(tree, cut, field)
        target = _best_cut(forest, cut, config, cooldown=config.cooldown)
        current = Cut(cut.levels, cut.starts, cut.stops)
        target = limit_edits(current, target, field, config, gist_width=cut.gist_width)
        return target.levels, target.starts, target.stops


@dataclass(frozen=True)
class _Prices:
    """Per level: entries that opening one node costs, gain per unit of its utility, and for uniform nodes of unit
    density the best ratio of gain to cost with everything below (``ratio``)."""

    cost: Ints
    gain: Floats
    ratio: Floats
    bundle_gain: Floats
    bundle_cost: Floats

    @classmethod
    def of(cls, tree: TreeGeometry, num_levels: int, gist_width: int, gist_value: float) -> _Prices:
        branching = tree.block_tokens
        levels = np.arange(num_levels + 1)
        cost = np.where(levels == 1, branching - gist_width, (branching - 1) * gist_width)
        gain = np.zeros(num_levels + 1)
        gain[1:] = gist_value ** (levels[1:] - 1) - gist_value ** levels[1:]
        bundle_gain = gain * float(branching) ** levels
        bundle_cost = cost.astype(np.float64)
        for level in range(2, num_levels + 1):
            below = bundle_gain[level - 1] / bundle_cost[level - 1]
            if below > bundle_gain[level] / bundle_cost[level]:
                bundle_gain[level] += branching * bundle_gain[level - 1]
                bundle_cost[level] += branching * bundle_cost[level - 1]
        return cls(cost, gain, bundle_gain / bundle_cost, bundle_gain, bundle_cost)


def _best_cut(forest: Forest, view: CutView, config: AllocatorConfig, *, cooldown: int) -> Cut:
    """The greedy cut, before limits on edits."""
    num_tokens = int(view.stops[-1]) if len(view.stops) else 0
    available = config.budget_entries - smallest_budget(forest.tree, num_tokens, view.gist_width)
    top = max(forest.by_level, default=0)
    prices = _Prices.of(forest.tree, top, view.gist_width, config.gist_value)
    is_open = view.levels[forest.rows] < forest.levels
    must_open, must_close = forced_nodes(forest, view, cooldown=cooldown)
    forced_cost = int(prices.cost[forest.levels[must_open]].sum())
    if forced_cost > available:
        if cooldown:
            return _best_cut(forest, view, config, cooldown=0)
        raise BudgetError(
            f"budget_entries is {config.budget_entries}; the pinned entries and the rest at its coarsest need "
            f"{config.budget_entries - available + forced_cost}: raise the budget to that, or unpin something"
        )
    favour = np.where(is_open, 1.0 + config.swap_margin, 1.0)
    favour[must_close] = 0.0
    ratios = _ratios(forest, prices, favour)
    ratios[must_open] = np.inf
    ratios[must_close] = -1.0
    ratios[~is_open & (ratios == 0)] = -1.0  # nothing to gain: open nodes may stay, closed ones stay closed
    offers = _offers(forest, prices, *_cap_by_parents(forest, ratios), favour)
    opened = offers.take(forest.tree, prices.cost, available)
    return cut_from_opened(forest.tree, opened, num_tokens)


def _ratios(forest: Forest, prices: _Prices, favour: Floats) -> Floats:
    """Gain per entry of opening each node, together with the best part of what lies under it."""
    levels = forest.levels
    density = forest.utilities / float(forest.tree.block_tokens) ** levels
    gains = np.where(forest.uniform, prices.bundle_gain[levels] * density, prices.gain[levels] * forest.utilities)
    gains *= favour
    costs = np.where(forest.uniform, prices.bundle_cost[levels], prices.cost[levels])
    ratios = gains / costs
    for level in sorted(forest.by_level):
        owners = forest.owners[level]
        if not len(owners):
            continue
        children = ratios[forest.by_level[level]][: len(owners) * forest.tree.block_tokens]
        children = children.reshape(len(owners), -1)
        better = np.flatnonzero(children.max(axis=1) > ratios[owners])
        if not len(better):
            continue
        order = np.argsort(-children[better], axis=1, kind="stable")
        members = forest.by_level[level].start + better[:, None] * forest.tree.block_tokens + order
        bundle_gains = gains[owners[better], None] + np.cumsum(gains[members], axis=1)
        bundle_costs = costs[owners[better], None] + np.cumsum(costs[members], axis=1)
        best = np.argmax(bundle_gains / bundle_costs, axis=1)
        at = np.arange(len(better))
        gains[owners[better]] = bundle_gains[at, best]
        costs[owners[better]] = bundle_costs[at, best]
        ratios[owners[better]] = bundle_gains[at, best] / bundle_costs[at, best]
    return ratios


def _cap_by_parents(forest: Forest, ratios: Floats) -> tuple[Floats, Ints]:
    """Ratios that never exceed the parent's, and the start of the topmost node that each is opened together with."""
    ratios, heads = ratios.copy(), forest.starts.copy()
    for level in sorted(forest.by_level, reverse=True):
        owners = forest.owners[level]
        if len(owners):
            first = forest.by_level[level].start
            part = slice(first, first + len(owners) * forest.tree.block_tokens)
            limit = np.repeat(ratios[owners], forest.tree.block_tokens)
            together = ratios[part] >= limit
            heads[part] = np.where(together, np.repeat(heads[owners], forest.tree.block_tokens), heads[part])
            ratios[part] = np.minimum(ratios[part], limit)
    return ratios, heads


def _offers(forest: Forest, prices: _Prices, ratios: Floats, heads: Ints, favour: Floats) -> Offers:
    """Every node of the forest that may be opened, and the layers below uniform ones."""
    levels, starts, branching = forest.levels, forest.starts, forest.tree.block_tokens
    live = np.flatnonzero(ratios >= 0)
    gains = prices.gain[levels[live]] * forest.utilities[live] * favour[live]
    singles = np.ones(len(live), dtype=np.int64)
    pieces = [Offers(ratios[live], gains, heads[live], levels[live], starts[live], singles)]
    deep = live[forest.uniform[live] & (levels[live] > 1) & (ratios[live] > 0)]
    caps = ratios[deep]
    density = forest.utilities[deep] / float(branching) ** levels[deep]
    for layer in range(max(forest.by_level, default=0) - 1, 0, -1):
        above = levels[deep] > layer
        caps = np.where(above, np.minimum(caps, density * prices.ratio[layer]), caps)
        nodes = deep[above]
        gains = prices.gain[layer] * density[above] * float(branching) ** layer
        counts = branching ** (levels[nodes] - layer)
        pieces.append(Offers(caps[above], gains, heads[nodes], np.full(len(nodes), layer), starts[nodes], counts))
    return Offers.of(pieces)
