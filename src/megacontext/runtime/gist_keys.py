"""What a learned lens compares of a memory's blocks, kept from one refocus to the next.

A key depends on its gist alone, so a block's is made once: a scan of a million tokens then neither reads gists nor
makes keys.

Shape legend: n blocks, r vectors of a gist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megacontext.memory.memory import Memory
from megacontext.ports.base import SupportsLearnedLens
from megacontext.tree.runs import runs_of

if TYPE_CHECKING:
    import torch

__all__ = ["KEPT_BLOCKS", "GistKeys"]

KEPT_BLOCKS = 49_152
SMALLEST = 1024  # rows of a table


class GistKeys:
    """The keys of a memory's blocks. Those of the last ``kept_blocks`` are kept, or of three quarters as many: more
    than a scan of a million tokens asks for, a kilobyte each."""

    def __init__(self, base: SupportsLearnedLens, memory: Memory, *, kept_blocks: int = KEPT_BLOCKS) -> None:
        self._base = base
        self._memory = memory
        self._kept_blocks = kept_blocks
        self._first = 0  # the block of the table's first row
        self._table: torch.Tensor | None = None
        self._is_made = np.zeros(0, dtype=np.bool_)

    def of(self, blocks_n: npt.NDArray[np.int64]) -> torch.Tensor:
        """Keys [n, r, ...] of distinct whole blocks, given ascending."""
        import torch

        from megacontext.bases.transfers import on_device

        table = self._make_room(int(blocks_n[-1]) + 1)
        num_older = int(np.searchsorted(blocks_n, self._first))
        rows_n = blocks_n[num_older:] - self._first
        for start, stop in runs_of(rows_n[~self._is_made[rows_n]]):
            table[start:stop] = self._made(start + self._first, stop + self._first)
            self._is_made[start:stop] = True
        if not len(rows_n):
            kept = table[:0]
        elif rows_n[-1] - rows_n[0] + 1 == len(rows_n):
            kept = table[int(rows_n[0]) : int(rows_n[-1]) + 1]
        else:
            kept = table[on_device(table.device, rows_n)[0]]
        older = [self._made(start, stop) for start, stop in runs_of(blocks_n[:num_older])]
        return torch.cat([*older, kept]) if older else kept

    def _made(self, start: int, stop: int) -> torch.Tensor:
        return self._base.lens_keys(self._memory.gists(1, start, stop))

    def _make_room(self, stop: int) -> torch.Tensor:
        """The table, with a row for block ``stop - 1``."""
        if self._table is not None and stop <= self._first + len(self._table):
            return self._table
        first = max(0, stop - self._kept_blocks * 3 // 4)
        num_rows = min(self._kept_blocks, max(SMALLEST, 2 * (stop - first)))
        one = self._made(stop - 1, stop)
        table = one.new_empty(num_rows, *one.shape[1:])
        is_made = np.zeros(num_rows, dtype=np.bool_)
        if self._table is not None:
            num_moved = max(0, self._first + len(self._table) - first)
            table[:num_moved] = self._table[len(self._table) - num_moved :]
            is_made[:num_moved] = self._is_made[len(self._table) - num_moved :]
        self._first, self._table, self._is_made = first, table, is_made
        return table
