"""From a cut to what the model reads: which row stands at each window position, and its vector.

Shape legend: W window positions, n entries of the cut, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.memory.reads import TreeReader
from megacontext.tree.cuts import Cut, entry_costs
from megacontext.tree.geometry import TreeGeometry
from megacontext.values import choice

if TYPE_CHECKING:
    import torch

    from megacontext.ports.base import Base

__all__ = ["POSITION_MODES", "PositionMode", "WindowReader", "WindowRows", "common_prefix"]

PositionMode = Literal["window", "global"]
POSITION_MODES: tuple[PositionMode, ...] = ("window", "global")
SCRATCH = -1


@dataclass(frozen=True)
class WindowRows:
    """What stands at each position of a window.

    keys: int64 [W, 3]. A raw token is (0, its position, 0), vector s of a gist (level, node start, s), and a token that
    is no part of the memory (-1, token id, 0). Memories only grow, so equal keys mean equal vectors.
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

    def then(self, other: WindowRows) -> WindowRows:
        """These rows, followed by others."""
        return WindowRows(np.concatenate([self.keys, other.keys]))


def common_prefix(left: WindowRows, right: WindowRows) -> int:
    """How many first rows two windows share: what a cache of one is worth to the other."""
    length = min(len(left), len(right))
    differs = np.flatnonzero((left.keys[:length] != right.keys[:length]).any(axis=1))
    return int(differs[0]) if len(differs) else length


class WindowReader:
    """Reads the vectors and positions of window rows. One batch of reads per call, however long the history is."""

    def __init__(self, tree: TreeGeometry, reader: TreeReader, base: Base, *, positions: PositionMode) -> None:
        choice("positions", positions, POSITION_MODES)
        self._tree = tree
        self._reader = reader
        self._base = base
        self._global = positions == "global"

    def read(self, rows: WindowRows, first: int, *, num_tokens: int) -> tuple[torch.Tensor, npt.NDArray[np.float64]]:
        """Embeddings [W - first, D] and positions [W - first] of the rows from ``first`` on. ``num_tokens``: where the
        scratch begins when positions are global."""
        keys = rows.keys[first:]
        positions = np.arange(first, len(rows), dtype=np.float64)
        token_rows = np.flatnonzero(keys[:, 0] <= 0)
        token_ids = keys[token_rows, 1]
        raw = keys[token_rows, 0] == 0
        token_ids[raw] = self._tokens_at(token_ids[raw])
        if self._global:
            scratch = keys[:, 0] == SCRATCH
            positions = keys[:, 1].astype(np.float64)
            positions[scratch] = num_tokens + np.arange(np.count_nonzero(scratch))
            self._check_range(float(positions.max(initial=0.0)))
        inputs = self._base.embed(token_ids.astype(np.uint32))
        if len(token_rows) == len(keys):
            return inputs, positions
        return self._with_gists(keys, token_rows, inputs, positions), positions

    def _check_range(self, position: float) -> None:
        info = self._base.info
        if position >= info.max_positions:
            raise InvalidValueError(
                f"positions='global' reaches {position:.0f}, but {info.name} knows positions below "
                f"{info.max_positions}: use positions='window'"
            )

    def _tokens_at(self, token_positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        spans = _runs(token_positions)
        if not spans:
            return np.zeros(0, dtype=np.int64)
        return np.concatenate(self._reader.token_batch(spans)).astype(np.int64)

    def _with_gists(
        self,
        keys: npt.NDArray[np.int64],
        token_rows: npt.NDArray[np.int64],
        token_inputs: torch.Tensor,
        positions: npt.NDArray[np.float64],
    ) -> torch.Tensor:
        """Token embeddings and gist vectors in window order; global positions get the gists' offsets."""
        import torch

        gist_rows = np.flatnonzero(keys[:, 0] > 0)
        slots = keys[gist_rows, 2]
        firsts = np.flatnonzero((slots == 0) | (np.arange(len(slots)) == 0))
        nodes = gist_rows[firsts]
        widths = np.power(self._tree.block_tokens, keys[nodes, 0])
        gists = self._reader.gist_batch(keys[nodes, 0], keys[nodes, 1] // widths)
        node_of_row = np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, len(slots))))
        if self._global:
            positions[gist_rows] += gists.offsets[node_of_row, slots]
        vectors = torch.from_numpy(gists.vectors[node_of_row, slots])
        inputs = token_inputs.new_empty((len(keys), token_inputs.shape[1]))
        inputs[_index(token_rows, inputs)] = token_inputs
        inputs[_index(gist_rows, inputs)] = vectors.to(device=inputs.device, dtype=inputs.dtype)
        return inputs


def _index(rows: npt.NDArray[np.int64], like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(rows).to(like.device)


def _runs(ascending: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """``[3, 4, 5, 9]`` -> ``[(3, 6), (9, 10)]``."""
    if not len(ascending):
        return []
    breaks = np.flatnonzero(np.diff(ascending) != 1) + 1
    firsts = ascending[np.concatenate([[0], breaks])]
    lasts = ascending[np.concatenate([breaks - 1, [len(ascending) - 1]])]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]
