"""Gists wherever they are: sealed shards, rows that wait in the catalog, or not stored at all and computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.memory.gist_rows import RowCache, empty_batch, join
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes
from megacontext.memory.parts import Parts
from megacontext.memory.scans import ReadSpans, Span, scanned
from megacontext.memory.snapshot import Snapshot
from megacontext.ports.arrays import ArraySpec
from megacontext.ports.gister import GistBatch
from megacontext.tree.runs import runs_of
from megacontext.values import shown, span, whole_number

__all__ = ["GistReader"]


class GistReader:
    """Gists of a snapshot. tokens: reads a token range, for gists that have to be computed."""

    def __init__(self, parts: Parts, snapshot: Snapshot, tokens: Callable[[int, int], npt.NDArray[np.uint32]]) -> None:
        self._parts = parts
        self._tree = parts.tree
        self._snapshot = snapshot
        self._tokens = tokens
        self._scan = scanned(parts.arrays)
        self._specs_of: dict[int, tuple[ArraySpec, ArraySpec]] = {}
        self._cache = RowCache(parts.info.gist_width, parts.info.dim)

    def forget(self) -> None:
        """Drop computed rows."""
        self._cache.clear()

    def rows(self, level: int, start: int, stop: int) -> GistBatch:
        """Those of nodes ``[start, stop)`` of one level >= 1."""
        level = _level(level)
        start, stop = span(start, stop, limit=self._snapshot.num_nodes(level), of=f"nodes of level {level}")
        sealed = self._snapshot.sealed_nodes(level)
        pieces = [empty_batch(0, self._parts.info.gist_width, self._parts.info.dim)]
        if start < min(stop, sealed):
            pieces += self._sealed(level, [(start, min(stop, sealed))], self._scan)
        if stop > max(start, sealed):
            pieces += self._unsealed(level, max(start, sealed), stop)
        return join(pieces[1:] or pieces)

    def batch(self, levels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]) -> GistBatch:
        """Those of nodes (levels[i], indices[i]) in any order; what is sealed comes in one batch of reads a level."""
        if len(levels) != len(indices):
            raise InvalidValueError(f"{len(levels)} levels for {len(indices)} nodes; give one level per node")
        distinct = sorted(set(levels.tolist()))
        if len(distinct) == 1:
            return self._scattered(distinct[0], indices)
        result = empty_batch(len(indices), self._parts.info.gist_width, self._parts.info.dim)
        for level in distinct:
            places = np.flatnonzero(levels == level)
            _fill(result, places, self._scattered(level, indices[places]))
        return result

    def _scattered(self, level: int, indices: npt.NDArray[np.int64]) -> GistBatch:
        """Rows of nodes of one level."""
        level = _level(level)
        num_nodes = self._snapshot.num_nodes(level)
        siblings = _as_stretch(indices) if len(indices) <= self._tree.block_tokens else None
        first, stop = siblings or (int(indices.min()), int(indices.max()) + 1)
        span(first, stop, limit=num_nodes, of=f"nodes of level {level}")
        sealed = self._snapshot.sealed_nodes(level)
        if stop <= sealed:
            if siblings is not None:
                return _batch_of(*(self._parts.arrays.read(spec, first, stop) for spec in self._specs(level)))
            return self._gathered(level, indices)
        is_sealed = indices < sealed
        result = empty_batch(len(indices), self._parts.info.gist_width, self._parts.info.dim)
        if first < sealed:
            _fill(result, np.flatnonzero(is_sealed), self._gathered(level, indices[is_sealed]))
        tail, places = np.unique(indices[~is_sealed], return_inverse=True)
        _fill(result, np.flatnonzero(~is_sealed), self._tail(level, tail, sealed, num_nodes), places)
        return result

    def _tail(self, level: int, indices: npt.NDArray[np.int64], sealed: int, num_nodes: int) -> GistBatch:
        """Rows of ascending, distinct nodes that no shard of this snapshot holds."""
        tail = indices.tolist()
        siblings = np.unique(np.asarray(self._cache.missing(level, tail), np.int64) // self._tree.block_tokens)
        for first, last in runs_of(siblings):  # whole sibling sets: few reads, and the rest is soon wanted too
            start, stop = max(sealed, first * self._tree.block_tokens), last * self._tree.block_tokens
            batch = join(self._unsealed(level, start, min(stop, num_nodes)))
            self._cache.put(level, start, batch)
        pieces = []
        for index in tail:
            row = self._cache.get(level, index)
            pieces.append(self.rows(level, index, index + 1) if row is None else row)
        return join(pieces)

    def _gathered(self, level: int, indices: npt.NDArray[np.int64]) -> GistBatch:
        """Rows of sealed nodes."""
        vectors, meta = (self._parts.arrays.gather(spec, indices) for spec in self._specs(level))
        return _batch_of(vectors, meta)

    def _sealed(self, level: int, runs: list[Span], read: ReadSpans) -> list[GistBatch]:
        if not runs:
            return []
        vectors, metas = (read(spec, runs) for spec in self._specs(level))
        return [_batch_of(rows, meta) for rows, meta in zip(vectors, metas, strict=True)]

    def _specs(self, level: int) -> tuple[ArraySpec, ArraySpec]:
        """Of vectors and of what goes with them; made once, since a read is over in less time than that takes."""
        if level not in self._specs_of:
            self._specs_of[level] = gist_spec(self._parts.info, level), meta_spec(self._parts.info, level)
        return self._specs_of[level]

    def _unsealed(self, level: int, start: int, stop: int) -> list[GistBatch]:
        """What the catalog holds of [start, stop), and the rest from wherever it went, in order."""
        pieces: list[GistBatch] = []
        position = start
        for first, batch in self._parts.catalog.gists(level, start, stop):
            pieces += self._absent(level, position, first)
            pieces.append(batch)
            position = first + len(batch)
        return pieces + self._absent(level, position, stop)

    def _absent(self, level: int, start: int, stop: int) -> list[GistBatch]:
        """Rows that the catalog does not hold: sealed since this reader last looked, or never stored."""
        if start >= stop:
            return []
        self._snapshot.see_seals()
        sealed = min(max(start, self._snapshot.sealed_nodes(level)), stop)
        pieces = self._sealed(level, [(start, sealed)] if start < sealed else [], self._scan)
        return pieces + ([self.compute(level, sealed, stop)] if sealed < stop else [])

    def compute(self, level: int, start: int, stop: int) -> GistBatch:
        """Fresh gists of nodes [start, stop), whatever is stored of them; levels below are read."""
        gister = self._parts.gister()
        num_children = self._tree.block_tokens
        step = shard_nodes(self._parts.info) if level == 1 else max(1, shard_nodes(self._parts.info) // num_children)
        pieces = []
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if level == 1:
                begin, end = first * num_children, last * num_children
                context = max(0, begin // gister.window_tokens * gister.window_tokens - gister.context_tokens)
                tokens = self._tokens(context, end)
                pieces.append(gister.from_tokens(tokens, start=context, num_context=begin - context))
            else:
                children = self.rows(level - 1, first * num_children, last * num_children)
                pieces.append(gister.from_gists(children, level=level))
        return join(pieces)


def _as_stretch(indices: npt.NDArray[np.int64]) -> Span | None:
    """``[start, stop)`` if these are consecutive, as the children of a node are. For few of them: as plain numbers they
    are compared in the time of one call of numpy."""
    numbers = indices.tolist()
    start, stop = numbers[0], numbers[0] + len(numbers)
    return (start, stop) if numbers == list(range(start, stop)) else None


def _batch_of(vectors: npt.NDArray[np.generic], meta: npt.NDArray[np.generic]) -> GistBatch:
    return GistBatch(
        vectors=np.asarray(vectors, np.float16),
        offsets=np.asarray(meta[..., 0], np.float32),
        weights=np.asarray(meta[..., 1], np.float32),
    )


def _fill(
    result: GistBatch, places: npt.NDArray[np.int64], rows: GistBatch, which: npt.NDArray[np.int64] | None = None
) -> None:
    """Put rows (``which`` of them, or all) into their places."""
    wanted: slice | npt.NDArray[np.int64] = slice(None) if which is None else which
    result.vectors[places] = rows.vectors[wanted]
    result.offsets[places] = rows.offsets[wanted]
    result.weights[places] = rows.weights[wanted]


def _level(level: int) -> int:
    level = whole_number("level", level, least=None, most=None)
    if level < 1:
        raise InvalidValueError(f"level {shown(level)} has no gists; choose 1 or more, or read tokens (level 0)")
    return level
