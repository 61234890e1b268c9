"""Cuts: tilings of a history by collapsed nodes and raw blocks, as parallel arrays, and what makes one legal.

Each row is a collapsed node (level >= 1), or the raw tokens (level 0) of one ``block_tokens``-aligned block; only the
last block of the history may be unfinished. A collapsed row costs ``gist_width`` window positions, a raw row one per
token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvariantError
from megacontext.tree.geometry import TreeGeometry

__all__ = [
    "Cut",
    "coarsest_cut",
    "concatenate_cuts",
    "cut_cost",
    "entry_costs",
    "node_widths",
    "raw_cut",
    "same_entries",
    "validate_cut",
]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cut:
    """levels, starts, stops: int64 [n], in temporal order; starts and stops in tokens."""

    levels: Rows
    starts: Rows
    stops: Rows

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Cut:
        return Cut(self.levels[rows], self.starts[rows], self.stops[rows])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cut) and len(self) == len(other) and bool(same_entries(self, other).all())

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Cut:
        """From ``(level, start, stop)`` rows."""
        table = np.array(list(rows), dtype=np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    def rows(self) -> list[tuple[int, int, int]]:
        """``(level, start, stop)`` rows."""
        return list(zip(self.levels.tolist(), self.starts.tolist(), self.stops.tolist(), strict=True))


def same_entries(first: Cut, second: Cut) -> npt.NDArray[np.bool_]:
    """Row by row, whether two cuts of equal length agree."""
    same: npt.NDArray[np.bool_] = first.levels == second.levels
    same &= first.starts == second.starts
    same &= first.stops == second.stops
    return same


def entry_costs(cut: Cut, gist_width: int) -> Rows:
    """Window positions of each row."""
    return np.where(cut.levels > 0, gist_width, cut.stops - cut.starts)


def node_widths(tree: TreeGeometry, levels: Rows) -> Rows:
    """Tokens of a whole row of each level; a raw row's block is as wide as a level-1 node."""
    highest = int(levels.max(initial=1))
    table = np.array([tree.width(max(level, 1)) for level in range(highest + 1)], dtype=np.int64)
    return table[levels]


def cut_cost(cut: Cut, gist_width: int) -> int:
    """Window positions of the whole cut."""
    return int(entry_costs(cut, gist_width).sum())


def concatenate_cuts(cuts: Sequence[Cut]) -> Cut:
    """Neighbouring cuts as one."""
    if not cuts:
        return Cut.of(())
    return Cut(
        np.concatenate([cut.levels for cut in cuts]),
        np.concatenate([cut.starts for cut in cuts]),
        np.concatenate([cut.stops for cut in cuts]),
    )


def raw_cut(tree: TreeGeometry, start: int, stop: int) -> Cut:
    """The blocks of ``[start, stop)`` raw; ``start`` is block-aligned, ``stop`` is too or ends the history."""
    starts = np.arange(start, stop, tree.block_tokens, dtype=np.int64)
    return Cut(np.zeros_like(starts), starts, np.minimum(starts + tree.block_tokens, stop))


def coarsest_cut(tree: TreeGeometry, start: int, stop: int) -> Cut:
    """The fewest rows that tile ``[start, stop)``; ``start`` is block-aligned, an unfinished last block stays raw."""
    pieces: list[Cut] = []
    position, level = start, 1
    while position + tree.width(level) <= stop:  # climb: up to the next boundary of the level above
        above = tree.width(level + 1)
        boundary = min(-(-position // above) * above, stop // tree.width(level) * tree.width(level))
        pieces.append(_row_of_nodes(tree, level, position, boundary))
        position, level = max(position, boundary), level + 1
    for lower in range(level - 1, 0, -1):
        boundary = stop // tree.width(lower) * tree.width(lower)
        pieces.append(_row_of_nodes(tree, lower, position, boundary))
        position = max(position, boundary)
    pieces.append(raw_cut(tree, position, stop))
    return concatenate_cuts(pieces)


def _row_of_nodes(tree: TreeGeometry, level: int, start: int, stop: int) -> Cut:
    starts = np.arange(start, stop, tree.width(level), dtype=np.int64)
    return Cut(np.full_like(starts, level), starts, starts + tree.width(level))


def validate_cut(
    tree: TreeGeometry, cut: Cut, num_tokens: int, *, gist_width: int = 1, budget_entries: int | None = None
) -> None:
    """Raise InvariantError, with the evidence, unless the rows tile ``[0, num_tokens)`` legally within budget."""
    levels, starts, stops = cut.levels, cut.starts, cut.stops
    if not len(levels) == len(starts) == len(stops):
        raise InvariantError(f"a cut with {len(levels)} levels, {len(starts)} starts and {len(stops)} stops")
    edges = np.concatenate((np.zeros(1, dtype=np.int64), stops))
    expected = np.concatenate((starts, np.array([num_tokens], dtype=np.int64)))
    if not np.array_equal(edges, expected):
        row = int(np.argmax(edges != expected))
        raise InvariantError(f"cover: row {row} of {len(cut)} should start at {edges[row]}, starts at {expected[row]}")
    if not len(cut):
        return
    if int(levels.min()) < 0 or int(stops[0]) <= 0:
        raise InvariantError(f"cover: a row of level {int(levels.min())}, or an empty first row {cut[:1].rows()}")
    widths = node_widths(tree, levels)
    unfinished_tail = (levels == 0) & (stops == num_tokens) & (stops > starts)
    legal = (starts % widths == 0) & ((stops - starts == widths) | (unfinished_tail & (stops - starts < widths)))
    if not legal.all():
        row = int(np.argmin(legal))
        raise InvariantError(
            f"alignment: row {row} is level {levels[row]} over [{starts[row]}, {stops[row]}), "
            f"not one whole node of {widths[row]} tokens"
        )
    cost = cut_cost(cut, gist_width)
    if budget_entries is not None and cost > budget_entries:
        raise InvariantError(f"budget: the cut costs {cost} entries, the budget is {budget_entries}")
