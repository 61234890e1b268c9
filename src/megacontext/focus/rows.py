"""A cut with what the working context remembers about each of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.ports.focus import CutView
from megacontext.tree.cuts import Cut, cut_cost, entry_costs
from megacontext.tree.geometry import TreeGeometry

__all__ = ["SETTLED_AGE", "CutRows", "RowsReader", "carry_rows"]

SETTLED_AGE = 1 << 32  # of rows that no edit has touched


@dataclass(frozen=True)
class CutRows:
    """One immutable snapshot, shared freely: its arrays are read-only.

    pinned bool [n]; ages int64 [n]: refocuses since the row last changed; densities float64 [n]: utility per token
    when the scores were last known.
    """

    cut: Cut
    pinned: npt.NDArray[np.bool_]
    ages: npt.NDArray[np.int64]
    densities: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        for rows in (self.cut.levels, self.cut.starts, self.cut.stops, self.pinned, self.ages, self.densities):
            rows.flags.writeable = False

    @classmethod
    def empty(cls) -> CutRows:
        return cls(Cut.of(()), np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0))

    @property
    def num_tokens(self) -> int:
        return int(self.cut.stops[-1]) if len(self.cut) else 0


def carry_rows(
    old: CutRows, new: Cut, *, num_refocuses: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Ages and densities of a new cut's rows: rows that stay keep theirs, edited rows have age 0 and the density that
    their tokens had, rows past the old end are settled and as dense as the old last row."""
    if not len(old.cut):
        return np.full(len(new), SETTLED_AGE), np.zeros(len(new))
    at = np.searchsorted(old.cut.starts, new.starts, side="right") - 1
    stays = (old.cut.starts[at] == new.starts) & (old.cut.levels[at] == new.levels)
    ages = np.where(stays, old.ages[at] + num_refocuses, np.where(new.starts >= old.num_tokens, SETTLED_AGE, 0))
    densities = old.densities[at]
    coarser = np.flatnonzero(new.levels > old.cut.levels[at])
    if len(coarser):
        cumulative = np.concatenate(([0.0], np.cumsum(old.densities * (old.cut.stops - old.cut.starts))))
        ends = np.searchsorted(old.cut.starts, new.stops[coarser], side="left")
        spans = old.cut.stops[ends - 1] - new.starts[coarser]
        densities[coarser] = np.maximum(cumulative[ends] - cumulative[at[coarser]], 0.0) / np.maximum(spans, 1)
    return ages, densities


class RowsReader:
    """The reading side of a working context: its rows as arrays, and what they add up to."""

    def __init__(self, tree: TreeGeometry, gist_width: int) -> None:
        self.tree = tree
        self.gist_width = gist_width
        self._rows = CutRows.empty()

    @property
    def cut(self) -> Cut:
        return self._rows.cut

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """int64 [num_entries]: 0 for raw tokens, l >= 1 for a collapsed node."""
        return self._rows.cut.levels

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64 [num_entries]: first token of each entry."""
        return self._rows.cut.starts

    @property
    def stops(self) -> npt.NDArray[np.int64]:
        """int64 [num_entries]: one past the last token of each entry."""
        return self._rows.cut.stops

    @property
    def pinned(self) -> npt.NDArray[np.bool_]:
        """bool [num_entries]: stays raw, by a pin or by configuration."""
        return self._rows.pinned

    @property
    def ages(self) -> npt.NDArray[np.int64]:
        """int64 [num_entries]: refocuses since the entry last changed; SETTLED_AGE and more if it never did."""
        return self._rows.ages

    @property
    def cost(self) -> int:
        """Window positions that the cut takes."""
        return cut_cost(self._rows.cut, self.gist_width)

    @property
    def num_entries(self) -> int:
        return len(self._rows.cut)

    @property
    def num_tokens(self) -> int:
        return self._rows.num_tokens

    def window_offsets(self) -> npt.NDArray[np.int64]:
        """First window position of each entry, int64 [num_entries]."""
        costs = entry_costs(self.cut, self.gist_width)
        return np.cumsum(costs) - costs

    def view(self) -> CutView:
        """The cut as lenses and allocators see it."""
        return CutView(
            block_tokens=self.tree.block_tokens,
            gist_width=self.gist_width,
            levels=self.levels,
            starts=self.starts,
            stops=self.stops,
            pinned=self.pinned,
            ages=self.ages,
        )
