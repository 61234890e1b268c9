"""The nodes an allocator has to decide about, as flat arrays.

A cut is a set of *opened* nodes, closed upwards: everything else follows. Below the roots (the coarsest cover) only the
nodes that hold a change of utility per token inside need to be looked at one by one; all others are *uniform*, and
what happens below them follows from their level and density alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import CutView
from megacontext.tree.geometry import TreeGeometry

__all__ = ["Forest", "Ints", "build_forest", "forced_nodes"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Forest:
    """Roots, and the children of every node that is not uniform; parents before children, in order within a level.

    levels, starts [m]; utilities float64 [m]: of the whole node; parents [m]: row of the parent, -1 for roots;
    uniform bool [m]; rows [m]: row of the current cut that holds the node's first token; by_level: slice per level;
    owners: per level, the rows of the parents of its first rows, one parent per K rows.
    """

    tree: TreeGeometry
    levels: Ints
    starts: Ints
    utilities: npt.NDArray[np.float64]
    parents: Ints
    uniform: Flags
    rows: Ints
    by_level: dict[int, slice]
    owners: dict[int, Ints]

    def ancestors_of(self, flags: Flags) -> Flags:
        """Flags on every proper ancestor of the flagged nodes."""
        above = np.zeros_like(flags)
        for level in sorted(self.by_level):
            part = self.by_level[level]
            parents = self.parents[part][flags[part] | above[part]]
            above[parents[parents >= 0]] = True
        return above


def build_forest(tree: TreeGeometry, view: CutView, field: UtilityField) -> Forest:
    """The forest of one history, with the utilities of ``field``."""
    num_tokens = int(view.stops[-1]) if len(view.stops) else 0
    branching = tree.block_tokens
    offsets = np.arange(branching, dtype=np.int64)
    levels: list[Ints] = []
    indices: list[Ints] = []
    parents: list[Ints] = []
    uniform: list[Flags] = []
    by_level: dict[int, slice] = {}
    owners: dict[int, Ints] = {}
    size = 0
    split = np.zeros(0, dtype=np.int64)  # nodes of the level above that are not uniform
    split_rows = split
    for level in range(tree.num_levels(num_tokens) - 1, 0, -1):
        width = tree.width(level)
        whole = num_tokens // width
        roots = np.arange(whole // branching * branching, whole, dtype=np.int64)
        index = np.concatenate(((split[:, None] * branching + offsets).ravel(), roots))
        parents.append(np.concatenate((np.repeat(split_rows, branching), np.full(len(roots), -1))))
        owners[level] = split_rows
        split = _nodes_split_by(field.edges, width, whole)
        at = np.searchsorted(index, split)
        is_uniform = np.ones(len(index), dtype=np.bool_)
        is_uniform[at] = False
        split_rows = at + size
        by_level[level] = slice(size, size + len(index))
        size += len(index)
        levels.append(np.full(len(index), level))
        indices.append(index * width)
        uniform.append(is_uniform)
    if not levels:
        none = np.zeros(0, dtype=np.int64)
        return Forest(tree, none, none, np.zeros(0), none, none > 0, none, {}, {})
    flat_levels, starts = np.concatenate(levels), np.concatenate(indices)
    is_uniform = np.concatenate(uniform)
    segments = np.searchsorted(field.edges, starts, side="right") - 1
    widths = branching**flat_levels
    utilities = field.densities[segments] * widths
    several = np.flatnonzero(~is_uniform)
    utilities[several] = field.over(starts[several], starts[several] + widths[several])
    rows = field.rows[segments]
    return Forest(tree, flat_levels, starts, utilities, np.concatenate(parents), is_uniform, rows, by_level, owners)


def _nodes_split_by(edges: Ints, width: int, whole: int) -> Ints:
    """Whole nodes of one level that have an edge inside."""
    nodes = edges // width
    inside: Ints = nodes[(edges != nodes * width) & (nodes < whole)]
    if not len(inside):
        return inside
    is_new = np.concatenate(([True], inside[1:] != inside[:-1]))
    distinct: Ints = inside[is_new]
    return distinct


def forced_nodes(forest: Forest, view: CutView, *, cooldown: int) -> tuple[Flags, Flags]:
    """Nodes that must be opened (at and above pins, above entries at rest) and that must not (entries at rest: those
    that changed less than ``cooldown`` refocuses ago)."""
    rows = forest.rows
    raw_blocks = (forest.levels == 1) & (view.levels[rows] == 0)
    must_open = raw_blocks & view.pinned[rows]
    must_close = np.zeros_like(must_open)
    if cooldown:
        resting = (view.ages < cooldown)[rows]
        must_open |= raw_blocks & resting
        must_close = resting & (view.levels[rows] == forest.levels) & (view.starts[rows] == forest.starts)
    must_open |= forest.ancestors_of(must_open | must_close)
    return must_open, must_close
