"""Nodes that may be opened, in order of what they bring, and the cut that follows from those that were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.focus.allocators.margin import choose_exactly
from megacontext.tree.cuts import Cut, node_widths
from megacontext.tree.geometry import TreeGeometry

__all__ = ["Offers", "Opened", "cut_from_opened"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FIELDS = ("ratios", "gains", "heads", "levels", "starts", "counts")
MARGIN_NODES = 32  # nodes on each side of where the budget ends that are chosen exactly
GAP_TOLERANCE = 0.002  # share of the gain
TIE_BREAK = 1e-9
FEW_NODES = 128  # so few that single ones matter
Opened = dict[int, Ints]  # per level, the starts of the opened nodes, ascending


@dataclass(frozen=True)
class Offers:
    """ratios float64 [n]: gain per entry, never above the parent's; gains float64 [n]: of one node by itself; heads
    int64 [n]: start of the topmost node that each is opened together with; levels, starts, counts int64 [n]:
    ``counts`` neighbouring nodes of a level from ``starts`` on."""

    ratios: Floats
    gains: Floats
    heads: Ints
    levels: Ints
    starts: Ints
    counts: Ints

    @classmethod
    def of(cls, pieces: list[Offers]) -> Offers:
        return cls(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in FIELDS))

    def __getitem__(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Offers:
        return Offers(*(getattr(self, name)[rows] for name in FIELDS))

    def take(self, tree: TreeGeometry, cost_of_level: Ints, available: int) -> Opened:
        """The best nodes that ``available`` entries buy; among equals the most recent, parents first."""
        if not len(self.ratios):
            return {}
        offers = self._best_first(available // int(cost_of_level[1:].min()) + MARGIN_NODES)
        costs = cost_of_level[offers.levels]
        spent = np.cumsum(costs * offers.counts)
        num_whole = int(np.searchsorted(spent, available, side="right"))
        left = available - (int(spent[num_whole - 1]) if num_whole else 0)
        num_part = left // int(costs[num_whole]) if num_whole < len(costs) else 0
        num_nodes = int(offers.counts[:num_whole].sum()) + num_part
        if not (num_nodes < FEW_NODES or offers._has_gap(num_whole, num_part, left, costs)):
            levels, starts, _ = offers._nodes(tree, 0, num_nodes)
            return _by_level(levels, starts)
        num_forced = int(np.isinf(offers.ratios).sum())
        margin = max(num_forced, num_nodes - MARGIN_NODES)
        levels, starts, gains = offers._nodes(tree, 0, num_nodes + MARGIN_NODES)
        left = available - int(cost_of_level[levels[:margin]].sum())
        last = slice(margin, None)
        gains = gains[last] + (
            TIE_BREAK * float(gains[last].max(initial=0.0)) or 1.0
        )  # of no worth, but open: may stay
        chosen = choose_exactly(tree, levels[last], starts[last], gains, cost_of_level[levels[last]], left)
        kept = np.concatenate((np.ones(margin, dtype=np.bool_), chosen))
        return _by_level(levels[kept], starts[kept])

    def _best_first(self, num_needed: int) -> Offers:
        offers = self
        if len(offers.ratios) > num_needed:
            threshold = np.partition(offers.ratios, -num_needed)[-num_needed]
            offers = offers[offers.ratios >= threshold]
        return offers[np.lexsort((-offers.starts, -offers.levels, -offers.heads, -offers.ratios))]

    def _has_gap(self, num_whole: int, num_part: int, left: int, costs: Ints) -> bool:
        """Whether spending the last entries at the last ratio would be worth noticeably more than what is taken."""
        if num_whole == len(costs):
            return False
        free = np.isfinite(self.ratios[:num_whole])
        taken = float((self.gains * self.counts)[:num_whole][free].sum() + self.gains[num_whole] * num_part)
        bound = float((self.ratios * costs * self.counts)[:num_whole][free].sum() + self.ratios[num_whole] * left)
        return bound - taken > GAP_TOLERANCE * bound

    def _nodes(self, tree: TreeGeometry, first: int, end: int) -> tuple[Ints, Ints, Floats]:
        """Levels, starts and gains of single nodes in order, the most recent of each offer first."""
        ends = np.cumsum(self.counts)
        at = np.arange(first, min(end, int(ends[-1])))
        rows = np.searchsorted(ends, at, side="right")
        levels = self.levels[rows]
        return levels, self.starts[rows] + (ends[rows] - 1 - at) * node_widths(tree, levels), self.gains[rows]


def _by_level(levels: Ints, starts: Ints) -> Opened:
    return {level: np.sort(starts[levels == level]) for level in np.unique(levels).tolist()}


def cut_from_opened(tree: TreeGeometry, opened: Opened, num_tokens: int) -> Cut:
    """The cut in which exactly the given nodes are opened; every opened node's parent is opened, or it is a root."""
    none = np.zeros(0, dtype=np.int64)
    levels: list[Ints] = []
    starts: list[Ints] = []
    for level in range(tree.num_levels(num_tokens) - 1, 0, -1):
        width, above = tree.width(level), tree.width(level + 1)
        children = opened.get(level + 1, none)[:, None] + np.arange(0, above, width, dtype=np.int64)
        roots = np.arange(num_tokens // above * above, num_tokens // width * width, width, dtype=np.int64)
        nodes = np.concatenate((children.ravel(), roots))
        here = opened.get(level, none)
        closed = np.ones(len(nodes), dtype=np.bool_)
        closed[np.searchsorted(nodes, here)] = False
        starts.append(nodes[closed])
        levels.append(np.full(int(closed.sum()), level))
    tail = np.arange(num_tokens // tree.block_tokens * tree.block_tokens, num_tokens, tree.block_tokens, dtype=np.int64)
    starts += [opened.get(1, none), tail]
    levels.append(np.zeros(len(starts[-1]) + len(starts[-2]), dtype=np.int64))
    flat_starts, flat_levels = np.concatenate(starts), np.concatenate(levels)
    order = np.argsort(flat_starts, kind="stable")
    flat_starts, flat_levels = flat_starts[order], flat_levels[order]
    return Cut(flat_levels, flat_starts, np.minimum(flat_starts + node_widths(tree, flat_levels), num_tokens))
