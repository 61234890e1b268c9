"""The best cut there is, by dynamic programming: the reference that other allocators are compared with.

For every node that is not uniform, and for one node of unit density per level, a table holds the best gain that each
amount of entries buys below it; siblings are merged like knapsacks. Limits on edits are not its business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.focus.allocators.forest import Forest, Ints, build_forest, forced_nodes
from megacontext.focus.allocators.knapsack import Knapsack
from megacontext.focus.allocators.offers import Opened, cut_from_opened
from megacontext.focus.allocators.value import check_config
from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import AllocatorConfig, CutView, FocusScores
from megacontext.tree.covers import smallest_budget
from megacontext.tree.geometry import TreeGeometry

__all__ = ["OptimalAllocator"]

Floats = npt.NDArray[np.float64]


class OptimalAllocator:
    """Maximises the value of ``ports.focus`` exactly; ignores cooldown, swap margin, edit limits and edit cost."""

    name = "optimal"

    def allocate(self, cut: CutView, scores: FocusScores, config: AllocatorConfig) -> tuple[Ints, Ints, Ints]:
        """The target cut; see ``ports.focus.Allocator``."""
        check_config(config)
        tree = TreeGeometry(cut.block_tokens)
        forest = build_forest(tree, cut, UtilityField(cut, scores))
        num_tokens = int(cut.stops[-1]) if len(cut.stops) else 0
        available = config.budget_entries - smallest_budget(tree, num_tokens, cut.gist_width)
        opened = _Solver(forest, cut, config.gist_value, available).solve(config.budget_entries)
        target = cut_from_opened(tree, opened, num_tokens)
        return target.levels, target.starts, target.stops


@dataclass(frozen=True)
class _Leaves:
    """Level-1 siblings, the best first: ``num`` of them are opened for ``num * cost`` units."""

    starts: list[int]
    cost: int


@dataclass(frozen=True)
class _Inner:
    """A node with siblings inside: closed for nothing, or opened for ``cost`` units and what its children get."""

    level: int
    start: int
    cost: int
    children: Knapsack


@dataclass(frozen=True)
class _Uniform:
    """A node whose tokens are all of one density; its table is that of its level."""

    level: int
    start: int


class _Solver:
    def __init__(self, forest: Forest, view: CutView, gist_value: float, available: int) -> None:
        branching, width = forest.tree.block_tokens, view.gist_width
        self.forest = forest
        self.unit = gcd((branching - 1) * width, branching - width)
        self.cap = available // self.unit
        self.leaf_cost = (branching - width) // self.unit
        self.inner_cost = (branching - 1) * width // self.unit
        self.gist_value = gist_value
        self.must_open, _ = forced_nodes(forest, view, cooldown=0)
        self._uniform: dict[int, tuple[Knapsack, Floats]] = {}

    def solve(self, budget_entries: int) -> Opened:
        """The opened nodes of the best cut."""
        tables: dict[int, tuple[object, Floats]] = {}
        for level in sorted(self.forest.by_level):
            part = self.forest.by_level[level]
            if level > 1:
                for row in range(part.start, part.stop):
                    tables[row] = self._table(row, level, tables)
        roots = self._siblings(np.flatnonzero(self.forest.parents < 0), tables)
        if self.cap < 0 or roots.values[-1] == -np.inf:
            raise BudgetError(
                f"budget_entries is {budget_entries}; the pinned entries and the rest at its coarsest need more: "
                "raise the budget, or unpin something"
            )
        opened: dict[int, list[int]] = {}
        for part_of, units in roots.trace(self.cap):
            self._trace(part_of, units, opened)
        return {level: np.array(sorted(starts), dtype=np.int64) for level, starts in opened.items()}

    @cached_property
    def _children(self) -> dict[int, Ints]:
        first_rows: dict[int, Ints] = {}
        for level, owners in self.forest.owners.items():
            first = self.forest.by_level[level].start
            for at, owner in enumerate(owners.tolist()):
                begin = first + at * self.forest.tree.block_tokens
                first_rows[owner] = np.arange(begin, begin + self.forest.tree.block_tokens)
        return first_rows

    def _gain(self, level: int, utility: float) -> float:
        return utility * (self.gist_value ** (level - 1) - self.gist_value**level)

    def _table(self, row: int, level: int, tables: dict[int, tuple[object, Floats]]) -> tuple[object, Floats]:
        start, utility = int(self.forest.starts[row]), float(self.forest.utilities[row])
        if self.forest.uniform[row]:
            unit_values = self._uniform_table(level)[1]
            return _Uniform(level, start), unit_values * (utility / self.forest.tree.width(level))
        children = self._siblings(self._children[row], tables)
        values = self._opened_or_closed(level, utility, children.values, must_open=bool(self.must_open[row]))
        return _Inner(level, start, self.inner_cost, children), values

    def _opened_or_closed(self, level: int, utility: float, below: Floats, *, must_open: bool) -> Floats:
        closed = np.full(self.inner_cost, -np.inf if must_open else 0.0)
        values = np.concatenate((closed, self._gain(level, utility) + below))[: self.cap + 1]
        return values if must_open else np.maximum(values, 0.0)

    def _siblings(self, rows: Ints, tables: dict[int, tuple[object, Floats]]) -> Knapsack:
        together = Knapsack(max(self.cap, 0))
        leaves = rows[self.forest.levels[rows] == 1]
        if len(leaves):
            forced = self.must_open[leaves]
            gains = self._gain(1, 1.0) * self.forest.utilities[leaves]
            order = np.lexsort((-self.forest.starts[leaves], -gains, ~forced))
            together.add(
                _Leaves(self.forest.starts[leaves][order].tolist(), self.leaf_cost),
                self._leaf_values(gains[order], int(forced.sum())),
            )
        for row in rows[self.forest.levels[rows] > 1].tolist():
            if self.forest.utilities[row] > 0 or self.must_open[row]:
                together.add(*tables[row])
        return together

    def _leaf_values(self, gains: Floats, num_forced: int) -> Floats:
        totals = np.concatenate(([0.0], np.cumsum(gains)))
        totals[:num_forced] = -np.inf
        return np.repeat(totals, self.leaf_cost)[: max(self.cap, 0) + 1]

    def _uniform_table(self, level: int) -> tuple[Knapsack, Floats]:
        """Children and values of a uniform node with a utility of 1 per token; starts count from the node's own."""
        if level not in self._uniform:
            branching = self.forest.tree.block_tokens
            width = self.forest.tree.width(level - 1)
            starts = [at * width for at in range(branching)]
            children = Knapsack(max(self.cap, 0))
            if level == 2:
                gains = np.full(branching, self._gain(1, width))
                children.add(_Leaves(starts[::-1], self.leaf_cost), self._leaf_values(gains, 0))
            else:
                for start in starts:
                    children.add(_Uniform(level - 1, start), self._uniform_table(level - 1)[1])
            utility = float(self.forest.tree.width(level))
            self._uniform[level] = children, self._opened_or_closed(level, utility, children.values, must_open=False)
        return self._uniform[level]

    def _trace(self, part: object, units: int, opened: dict[int, list[int]], base: int = 0) -> None:
        match part:
            case _Leaves(starts, cost):
                opened.setdefault(1, []).extend(base + start for start in starts[: units // cost])
            case _Inner(level, start, cost, children) if units >= cost:
                opened.setdefault(level, []).append(start)
                for child, share in children.trace(units - cost):
                    self._trace(child, share, opened)
            case _Uniform(level, start) if units >= self.inner_cost:
                opened.setdefault(level, []).append(base + start)
                for child, share in self._uniform_table(level)[0].trace(units - self.inner_cost):
                    self._trace(child, share, opened, base + start)
            case _:
                pass
