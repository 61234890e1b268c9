"""Windows that show all but the end of the history at one level: what a level says, and what closing costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.ports.focus import AllocatorConfig, CutView, FocusScores
from megacontext.tree.geometry import TreeGeometry

__all__ = ["OneLevel"]

Rows = npt.NDArray[np.int64]


class OneLevel:
    """An allocator that closes all that is not pinned to nodes of one level, lower ones where they do not fit."""

    name = "one-level"

    def __init__(self, level: int) -> None:
        self.level = level

    def allocate(self, cut: CutView, scores: FocusScores, config: AllocatorConfig) -> tuple[Rows, Rows, Rows]:
        """Pinned entries as they are, the rest closed. BudgetError if that does not fit."""
        tree = TreeGeometry(cut.block_tokens)
        rows: list[tuple[int, int, int]] = []
        closing = 0
        for level, start, stop, is_pinned in zip(cut.levels, cut.starts, cut.stops, cut.pinned, strict=True):
            if is_pinned:
                rows += self._closed(tree, closing, int(start))
                rows.append((int(level), int(start), int(stop)))
                closing = int(stop)
        rows += self._closed(tree, closing, int(cut.stops[-1]) if len(cut.stops) else 0)
        levels, starts, stops = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        cost = int(np.where(levels > 0, cut.gist_width, stops - starts).sum())
        if cost > config.budget_entries:
            raise BudgetError(
                f"budget_entries leaves {config.budget_entries} to the history, which at level {self.level} needs "
                f"{cost}: use a budget of {cost - config.budget_entries} more, or a higher level"
            )
        return levels, starts, stops

    def _closed(self, tree: TreeGeometry, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        while start < stop:
            level = self.level
            while level and (start % tree.width(level) or start + tree.width(level) > stop):
                level -= 1
            end = start + tree.width(level) if level else min(stop, (start // tree.width(1) + 1) * tree.width(1))
            yield level, start, end
            start = end
