"""Gist batches as rows: joining, and a small bounded cache of those that no shard holds yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from megacontext.ports.gister import GistBatch
from megacontext.units import MIB

__all__ = ["RowCache", "empty_batch", "join", "meta_rows"]


def empty_batch(num_rows: int, gist_width: int, dim: int) -> GistBatch:
    """Uninitialised rows to be filled."""
    return GistBatch(
        vectors=np.empty((num_rows, gist_width, dim), np.float16),
        offsets=np.empty((num_rows, gist_width), np.float32),
        weights=np.empty((num_rows, gist_width), np.float32),
    )


def join(batches: Sequence[GistBatch]) -> GistBatch:
    """Rows of several batches (at least one) in order."""
    if len(batches) == 1:
        return batches[0]
    return GistBatch(
        vectors=np.concatenate([batch.vectors for batch in batches]),
        offsets=np.concatenate([batch.offsets for batch in batches]),
        weights=np.concatenate([batch.weights for batch in batches]),
    )


def meta_rows(batch: GistBatch) -> np.ndarray:
    """(offset, weight) of every gist vector, as the ``meta`` arrays keep them: float32 [n, r, 2]."""
    return np.stack([batch.offsets, batch.weights], axis=-1).astype(np.float32)


class RowCache:
    """Least recently used rows, at most ``cache_bytes`` of them.

    Rows of complete nodes never change, so nothing has to be invalidated.
    """

    def __init__(self, gist_width: int, dim: int, cache_bytes: int = 16 * MIB) -> None:
        self._capacity = max(64, cache_bytes // (gist_width * (2 * dim + 8)))
        self._rows: OrderedDict[tuple[int, int], GistBatch] = OrderedDict()

    def missing(self, level: int, indices: Iterable[int]) -> list[int]:
        return [index for index in indices if (level, index) not in self._rows]

    def put(self, level: int, start: int, batch: GistBatch) -> None:
        """Remember rows from node ``start`` on (the last ones, if they are more than fit)."""
        for row in range(max(0, len(batch) - self._capacity), len(batch)):
            piece = batch[row : row + 1]
            self._rows[level, start + row] = GistBatch(  # copies: a view would keep the whole batch alive
                vectors=piece.vectors.copy(), offsets=piece.offsets.copy(), weights=piece.weights.copy()
            )
            self._rows.move_to_end((level, start + row))
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)

    def get(self, level: int, index: int) -> GistBatch | None:
        batch = self._rows.get((level, index))
        if batch is not None:
            self._rows.move_to_end((level, index))
        return batch

    def clear(self) -> None:
        self._rows.clear()
