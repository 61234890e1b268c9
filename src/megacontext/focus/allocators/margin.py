"""The last few choices, made exactly.

Taking nodes in order of their ratio goes wrong only where the budget ends: a path that is half opened when it runs out
has cost entries and shows little. The few nodes before and after that point are therefore chosen again, as a small
knapsack over trees (the "core" of Balas and Zemel, "An algorithm for large zero-one knapsack problems", 1980).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.focus.allocators.knapsack import Knapsack
from megacontext.tree.geometry import TreeGeometry

__all__ = ["choose_exactly"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Alike:
    """Childless siblings of one cost, the best first."""

    nodes: list[int]
    cost: int


@dataclass(frozen=True)
class _Parent:
    node: int
    cost: int
    children: Knapsack


def choose_exactly(
    tree: TreeGeometry, levels: Ints, starts: Ints, gains: Floats, costs: Ints, available: int
) -> npt.NDArray[np.bool_]:
    """Which nodes to open for the most gain within ``available`` entries.

    A node whose parent is among them needs it opened too; the parents of all others are open already.
    """
    unit = int(np.gcd.reduce(costs)) if len(costs) else 1
    units = costs // unit
    cap = available // unit
    place = {node: at for at, node in enumerate(zip(levels.tolist(), starts.tolist(), strict=True))}
    children: defaultdict[int | None, list[int]] = defaultdict(list)
    for (level, start), at in place.items():
        above = tree.width(level + 1)
        children[place.get((level + 1, start // above * above))].append(at)
    values: dict[int, Floats] = {}
    parents: dict[int, _Parent] = {}

    def together(nodes: list[int]) -> Knapsack:
        sack = Knapsack(cap)
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for node in nodes:
            if node in parents:
                sack.add(parents[node], values[node])
            else:
                alike[int(units[node])].append(node)
        for cost, group in alike.items():
            group.sort(key=lambda node: -gains[node])
            totals = np.concatenate(([0.0], np.cumsum(gains[group])))
            sack.add(_Alike(group, cost), np.repeat(totals, cost)[: cap + 1])
        return sack

    for node in np.argsort(levels, kind="stable").tolist():
        if children[node]:
            sack = together(children[node])
            cost = int(units[node])
            parents[node] = _Parent(node, cost, sack)
            values[node] = np.concatenate((np.zeros(cost), gains[node] + sack.values))[: cap + 1]
    chosen = np.zeros(len(levels), dtype=np.bool_)
    pending = list(together(children[None]).trace(cap))
    while pending:
        part, share = pending.pop()
        if isinstance(part, _Alike):
            chosen[part.nodes[: share // part.cost]] = True
        elif isinstance(part, _Parent) and share >= part.cost:
            chosen[part.node] = True
            pending.extend(part.children.trace(share - part.cost))
    return chosen
