"""A store of arrays with what was read of it kept in memory, for those who read the same again and again.

A store may well keep decoded chunks itself; but thousands of scattered rows are then thousands of calls, of some ten
microseconds each. Here the rows of a warm gather are found by arithmetic and copied at once (see ``ChunkPool``).

Sealed rows never change, except that an erasure or a repair writes a shard again: what is kept of it goes before the
write and after it, and rows that were read meanwhile are not kept. Of what another process rewrites nobody tells us:
``forget`` is for whoever learns of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from megacontext.errors import StorageError
from megacontext.ports.arrays import ArraySpec, ArrayStore, LayoutDamage, Orphan, SupportsPrefetch
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.chunk_pool import ChunkPool
from megacontext.storage.patience import READ_TIMEOUT_S
from megacontext.tree.runs import runs_of

__all__ = ["CachedArrays", "cached_store"]

# a quarter of a cache is TensorStore's: indices of shards, without which it cannot read, and what it fetched ahead
_STORE_SHARE = 4

Rows = npt.NDArray[np.generic]


def cached_store(location: str | Path, *, cache_bytes: int, read_timeout_s: float = READ_TIMEOUT_S) -> CachedArrays:
    """The sealed arrays at a folder or URL; cache_bytes limits everything that is kept of them, read_timeout_s how long
    a read may take."""
    store_bytes = cache_bytes // _STORE_SHARE
    store = TensorStoreArrays(location, cache_bytes=store_bytes, read_timeout_s=read_timeout_s)
    return CachedArrays(store, cache_bytes=cache_bytes - store_bytes)


class CachedArrays:
    """ArrayStore over another. cache_bytes: limit of what is kept here; 0 keeps nothing."""

    def __init__(self, store: ArrayStore, *, cache_bytes: int) -> None:
        self._store = store
        self._pool = ChunkPool(cache_bytes)
        self._num_changes = 0
        self._lock = Lock()

    def write_shard(self, spec: ArraySpec, shard: int, rows: Rows) -> None:
        self._drop(spec, shard)
        try:
            self._store.write_shard(spec, shard, rows)
        finally:
            self._drop(spec, shard)

    def read(self, spec: ArraySpec, start: int, stop: int) -> Rows:
        size = spec.chunk_rows
        if start < stop and start // size == (stop - 1) // size:
            with self._lock:
                found = self._pool.stretch(spec, start, stop)
            if found is not None:
                return found
        elif not self._pool.holds(spec, (stop - start) // size):
            return self._store.read(spec, start, stop)
        return self.gather(spec, np.arange(start, stop))

    def read_many(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[Rows]:
        if len(spans) <= 1:
            return [self.read(spec, start, stop) for start, stop in spans]
        counts = np.array([max(0, stop - start) for start, stop in spans])
        ends = np.cumsum(counts)
        starts = np.array([start for start, _ in spans])
        rows = np.repeat(starts - ends + counts, counts) + np.arange(ends[-1])
        return np.split(self.gather(spec, rows), ends[:-1])

    def read_each(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[Rows | StorageError]:
        size = spec.chunk_rows
        chunks_of = [range(start // size, -(-stop // size)) if start < stop else range(0) for start, stop in spans]
        lost = self._try(spec, np.unique([chunk for chunks in chunks_of for chunk in chunks]).astype(np.int64))
        found: list[Rows | StorageError] = []
        for (start, stop), chunks in zip(spans, chunks_of, strict=True):
            error = next((lost[chunk] for chunk in chunks if chunk in lost), None)
            try:
                found.append(self.read(spec, start, stop) if error is None else error)
            except StorageError as fault:  # was not kept, and is gone by now
                found.append(fault)
        return found

    def prefetch(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> None:
        if not isinstance(self._store, SupportsPrefetch) or not spans:
            return
        bounds = np.array(spans, dtype=np.int64)
        bounds = bounds[bounds[:, 0] < bounds[:, 1]]
        with self._lock:
            absent = self._pool.missing(spec, bounds[:, 0] // spec.chunk_rows)
            absent |= self._pool.missing(spec, (bounds[:, 1] - 1) // spec.chunk_rows)
        if absent.any():
            self._store.prefetch(spec, [(start, stop) for start, stop in bounds[absent].tolist()])

    def gather(self, spec: ArraySpec, rows: npt.NDArray[np.int64]) -> Rows:
        if not len(rows):
            return np.empty((0, *spec.row_shape), dtype=spec.dtype)
        with self._lock:
            found = self._pool.rows(spec, rows)
        if found is None and self._load(spec, rows // spec.chunk_rows):
            with self._lock:
                found = self._pool.rows(spec, rows)
        return self._store.gather(spec, rows) if found is None else found

    def read_shard(self, spec: ArraySpec, shard: int) -> Rows:
        return self._store.read_shard(spec, shard)

    def damaged_layout(self, specs: Sequence[ArraySpec]) -> list[LayoutDamage]:
        return self._store.damaged_layout(specs)

    def mend_layout(self, specs: Sequence[ArraySpec]) -> None:
        self._store.mend_layout(specs)

    def object_name(self, spec: ArraySpec, shard: int) -> str:
        return self._store.object_name(spec, shard)

    def num_bytes(self) -> int:
        return self._store.num_bytes()

    def has_shard(self, spec: ArraySpec, shard: int) -> bool:
        return self._store.has_shard(spec, shard)

    def orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        return self._store.orphans(num_shards)

    def remove_orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        removed = self._store.remove_orphans(num_shards)
        if removed:
            self.forget()
        return removed

    def forget(self) -> None:
        with self._lock:
            self._num_changes += 1
            self._pool.clear()
        self._store.forget()

    def _load(self, spec: ArraySpec, chunks: npt.NDArray[np.int64]) -> bool:
        """Read those of the chunks that are not here, in one batch; False if they are too many to be kept."""
        chunks = np.unique(chunks)
        if not self._pool.holds(spec, len(chunks)):
            return False
        with self._lock:
            missing = chunks[self._pool.missing(spec, chunks)]
            num_changes = self._num_changes
        if not len(missing):
            return True  # another thread has just read them
        size = spec.chunk_rows
        rows = np.concatenate(
            self._store.read_many(spec, [(first * size, last * size) for first, last in runs_of(missing)])
        )
        with self._lock:
            # not if something was rewritten meanwhile, nor twice if another thread has read it too
            if num_changes == self._num_changes and self._pool.missing(spec, missing).all():
                self._pool.put(spec, missing, rows)
        return True

    def _try(self, spec: ArraySpec, chunks: npt.NDArray[np.int64]) -> dict[int, StorageError]:
        """Read those of the chunks that are not here, and keep what can be; what went wrong with the others."""
        with self._lock:
            missing = chunks[self._pool.missing(spec, chunks)]
            num_changes = self._num_changes
        size = spec.chunk_rows
        reads = self._store.read_each(spec, [(chunk * size, (chunk + 1) * size) for chunk in missing.tolist()])
        lost = {int(chunk): read for chunk, read in zip(missing, reads, strict=True) if isinstance(read, StorageError)}
        kept = [(chunk, read) for chunk, read in zip(missing, reads, strict=True) if int(chunk) not in lost]
        with self._lock:
            for chunk, rows in kept:
                one = np.array([chunk])
                if num_changes == self._num_changes and self._pool.missing(spec, one).all():
                    self._pool.put(spec, one, np.asarray(rows))
        return lost

    def _drop(self, spec: ArraySpec, shard: int) -> None:
        with self._lock:
            self._num_changes += 1
            self._pool.drop(spec, shard * spec.shard_rows, (shard + 1) * spec.shard_rows)
