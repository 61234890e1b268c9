"""From a cut to what the model reads: which row stands at each window position, and its vector.

Shape legend: W window positions, n entries of the cut, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.memory.reads import TreeReader
from megacontext.runtime.placement import (
    LEAD,
    POSITION_MODES,
    SCRATCH,
    Placement,
    PositionMode,
    RowNumbering,
    place_rows,
)
from megacontext.tree.cuts import Cut, entry_costs
from megacontext.tree.geometry import TreeGeometry
from megacontext.tree.timeline import window_gist_extent
from megacontext.values import choice

if TYPE_CHECKING:
    import torch

    from megacontext.ports.base import Base

__all__ = ["WindowInputs", "WindowReader", "WindowRows", "common_prefix"]


@dataclass(frozen=True)
class WindowRows:
    """What stands at each position of a window.

    keys: int64 [W, 3]. A raw token is (0, its position, 0), vector s of a gist (level, node start, s), and a token that
    is no part of the memory (-1, token id, 0) after the history, (-2, token id, place) before it. Memories only grow,
    so equal keys mean equal vectors.
    """

    keys: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of_cut(cls, cut: Cut, gist_width: int) -> WindowRows:
        counts = entry_costs(cut, gist_width)
        num_rows = int(counts.sum())
        slots = np.arange(num_rows, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        levels = np.repeat(cut.levels, counts)
        raw = levels == 0
        keys = np.empty((num_rows, 3), dtype=np.int64)
        keys[:, 0] = levels
        keys[:, 1] = np.repeat(cut.starts, counts) + np.where(raw, slots, 0)
        keys[:, 2] = np.where(raw, 0, slots)
        return cls(keys)

    @classmethod
    def of_scratch(cls, token_ids: npt.NDArray[np.uint32]) -> WindowRows:
        keys = np.zeros((len(token_ids), 3), dtype=np.int64)
        keys[:, 0] = SCRATCH
        keys[:, 1] = token_ids
        return cls(keys)

    @classmethod
    def of_lead(cls, token_ids: npt.NDArray[np.uint32]) -> WindowRows:
        keys = np.zeros((len(token_ids), 3), dtype=np.int64)
        keys[:, 0] = LEAD
        keys[:, 1] = token_ids
        keys[:, 2] = np.arange(len(token_ids))
        return cls(keys)

    def then(self, other: WindowRows) -> WindowRows:
        """These rows, followed by others."""
        return WindowRows(np.concatenate([self.keys, other.keys]))


def common_prefix(left: WindowRows, right: WindowRows) -> int:
    """How many first rows two windows share: what a cache of one is worth to the other."""
    length = min(len(left), len(right))
    differs = np.flatnonzero((left.keys[:length] != right.keys[:length]).any(axis=1))
    return int(differs[0]) if len(differs) else length


@dataclass(frozen=True)
class WindowInputs:
    """What the model is given for rows of a window: vectors [R, D], positions and their standard deviations [R] (None
    where every row stands at one place)."""

    vectors: torch.Tensor
    positions: npt.NDArray[np.float64]
    spreads: npt.NDArray[np.float32] | None


class WindowReader:
    """Reads the vectors and positions of window rows. One batch of reads per call, however long the history is.

    positions: how rows are numbered; ``auto`` as the base was trained. capacity_entries: the largest window that is
    read: a timeline squeezes gists where it would end behind what the base learned.
    """

    def __init__(
        self, tree: TreeGeometry, reader: TreeReader, base: Base, *, positions: PositionMode, capacity_entries: int = 0
    ) -> None:
        choice("positions", positions, POSITION_MODES)
        self._tree = tree
        self._reader = reader
        self._base = base
        self._numbering: RowNumbering = base.info.positions if positions == "auto" else positions
        self._gist_extent = window_gist_extent(capacity_entries, base.info.learned_positions or base.info.max_positions)

    def place(self, rows: WindowRows, *, num_tokens: int) -> Placement:
        """Where rows stand. ``num_tokens``: where the scratch begins when positions are global."""
        return place_rows(
            rows.keys,
            numbering=self._numbering,
            block_tokens=self._tree.block_tokens,
            gist_width=self._reader.gister.gist_width,
            num_tokens=num_tokens,
            gist_extent=self._gist_extent,
        )

    def read(self, rows: WindowRows, places_R: npt.NDArray[np.int64], placement: Placement) -> WindowInputs:
        """Inputs of some of the rows, given by their places in the window, ascending; ``placement`` is that of all."""
        keys = rows.keys[places_R]
        token_ids = np.where(keys[:, 0] <= 0, keys[:, 1], 0)  # a gist's row is there too, and written over
        raw = keys[:, 0] == 0
        token_ids[raw] = self._reader.tokens_at(token_ids[raw])
        inputs = self._base.embed(token_ids.astype(np.uint32))
        positions = placement.positions_W[places_R]
        gist_rows = np.flatnonzero(keys[:, 0] > 0)
        if not len(gist_rows):
            self._check_range(positions)
            return WindowInputs(inputs, positions, None)
        vectors, offsets = self._gists(keys, gist_rows)
        if self._numbering == "global":
            positions[gist_rows] += offsets
        self._check_range(positions)
        gister = self._reader.gister
        spreads = np.zeros(len(keys), dtype=np.float32)
        spreads[gist_rows] = gister.spread * gister.gist_width * placement.extents_W[places_R][gist_rows]
        return WindowInputs(_written_over(inputs, gist_rows, vectors), positions, spreads)

    def _check_range(self, positions: npt.NDArray[np.float64]) -> None:
        info = self._base.info
        furthest = float(positions.max(initial=0.0))
        if self._numbering == "global" and furthest >= info.max_positions:
            raise InvalidValueError(
                f"positions='global' reaches {furthest:.0f}, but {info.name} knows positions below "
                f"{info.max_positions}: use positions='window'"
            )

    def _gists(
        self, keys: npt.NDArray[np.int64], gist_rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Vectors of gist rows as stored, and their offsets in tokens from the start of their node."""
        slots = keys[gist_rows, 2]
        is_first = np.ones(len(gist_rows), dtype=np.bool_)
        is_first[1:] = (keys[gist_rows[1:], :2] != keys[gist_rows[:-1], :2]).any(axis=1)
        firsts = np.flatnonzero(is_first)
        nodes = gist_rows[firsts]
        widths = np.power(self._tree.block_tokens, keys[nodes, 0])
        gists = self._reader.gist_batch(keys[nodes, 0], keys[nodes, 1] // widths)
        node_of_row = np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, len(slots))))
        return gists.vectors[node_of_row, slots], gists.offsets[node_of_row, slots]


def _written_over(inputs_RD: torch.Tensor, gist_rows: npt.NDArray[np.int64], vectors: npt.NDArray[Any]) -> torch.Tensor:
    """Inputs with gists in some rows, in the precision of the base."""
    from megacontext.bases.transfers import on_device

    rows_there, vectors_there = on_device(inputs_RD.device, gist_rows, vectors)
    return inputs_RD.index_copy(0, rows_there, vectors_there.to(inputs_RD.dtype))
