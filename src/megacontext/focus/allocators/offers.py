"""Nodes that may be opened, in order of what they bring, and the cut that follows from those that were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.tree.cuts import Cut, node_widths
from megacontext.tree.geometry import TreeGeometry

__all__ = ["Offers", "Opened", "cut_from_opened"]

Ints = npt.NDArray[np.int64]
Opened = dict[int, Ints]  # per level, the starts of the opened nodes, ascending


@dataclass(frozen=True)
class Offers:
    """ratios float64 [n]: gain per entry, never above the parent's; heads int64 [n]: start of the topmost node that
    each belongs together with; levels, starts, counts int64 [n]: ``counts`` neighbouring nodes of a level from
    ``starts`` on."""

    ratios: npt.NDArray[np.float64]
    heads: Ints
    levels: Ints
    starts: Ints
    counts: Ints

    @classmethod
    def of(cls, pieces: list[Offers]) -> Offers:
        names = ("ratios", "heads", "levels", "starts", "counts")
        return cls(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in names))

    def __getitem__(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Offers:
        return Offers(self.ratios[rows], self.heads[rows], self.levels[rows], self.starts[rows], self.counts[rows])

    def take(self, tree: TreeGeometry, cost_of_level: Ints, available: int) -> Opened:
        """The best offers that ``available`` entries buy; among equals the most recent, parents first."""
        if not len(self.ratios):
            return {}
        sorted_offers = self._best_first(available // int(cost_of_level[1:].min()) + 1)
        costs = cost_of_level[sorted_offers.levels]
        spent = np.cumsum(costs * sorted_offers.counts)
        num_whole = int(np.searchsorted(spent, available, side="right"))
        taken = sorted_offers[:num_whole]
        left = available - (int(spent[num_whole - 1]) if num_whole else 0)
        parts = [taken]
        if num_whole < len(costs) and (num_part := left // int(costs[num_whole])):
            parts.append(sorted_offers._last(tree, num_whole, num_part))
        return _by_level(tree, Offers.of(parts))

    def _best_first(self, num_needed: int) -> Offers:
        offers = self
        if len(offers.ratios) > num_needed:
            threshold = np.partition(offers.ratios, -num_needed)[-num_needed]
            offers = offers[offers.ratios >= threshold]
        return offers[np.lexsort((-offers.starts, -offers.levels, -offers.heads, -offers.ratios))]

    def _last(self, tree: TreeGeometry, row: int, num_part: int) -> Offers:
        """The ``num_part`` most recent nodes of one offer."""
        one = self[row : row + 1]
        skipped = (one.counts - num_part) * tree.width(int(one.levels[0]))
        return Offers(one.ratios, one.heads, one.levels, one.starts + skipped, np.array([num_part]))


def _by_level(tree: TreeGeometry, offers: Offers) -> Opened:
    opened: Opened = {}
    for level in np.unique(offers.levels).tolist():
        part = offers[offers.levels == level]
        within = np.arange(int(part.counts.sum())) - np.repeat(np.cumsum(part.counts) - part.counts, part.counts)
        opened[level] = np.sort(np.repeat(part.starts, part.counts) + within * tree.width(level))
    return opened


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
