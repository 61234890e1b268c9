"""Sealed arrays on TensorStore: plain zarr v3 with checksums, on files, in memory, on S3 or GCS.

Three decisions carry this module. The shape is declared once as 2^40 rows and never resized, because a resize before
its data would show zeros after a crash: how far an array reaches is the catalog's business. Missing data is an error
(``fill_missing_data_reads``), which needs all-zero chunks to be stored. And a shard is written whole, once, so
replication, caching and object stores stay simple and a retry after a crash rewrites the same bytes.

TensorStore must not be used before a fork; workers are spawned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from megacontext.errors import InvariantError, StorageError
from megacontext.ports.arrays import ArraySpec, LayoutDamage, Orphan
from megacontext.storage.faults import os_faults, tensorstore_fault
from megacontext.storage.handles import ArrayHandles
from megacontext.storage.listing import delete_object, has_object, sized_objects
from megacontext.storage.locations import local_folder
from megacontext.storage.patience import READ_TIMEOUT_S, Patience
from megacontext.storage.read_ahead import ReadAhead
from megacontext.storage.zarr_layout import ARRAYS_FOLDER, ZarrLayout
from megacontext.tree.runs import runs_of
from megacontext.units import MIB

__all__ = ["TensorStoreArrays"]

_SHARD_KEY = re.compile(r"/c/(\d+)[/\"]")
_SHARD_NAME = re.compile(r"([^/]+)/c/(\d+)(?:/.*)?")
_LOCK_SUFFIX = ".__lock"


class TensorStoreArrays:
    """ArrayStore over a folder or any URL of ``locations``.

    cache_bytes bounds the pool of decoded chunks and shard indices; 0 keeps nothing. read_timeout_s bounds every read.
    """

    def __init__(
        self, location: str | Path, *, cache_bytes: int = 64 * MIB, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._folder = local_folder(location)
        self._patience = Patience(read_timeout_s)
        self._handles = ArrayHandles(location, cache_bytes=cache_bytes, patience=self._patience)
        self._ahead = ReadAhead(cache_bytes=cache_bytes)
        self._layout = ZarrLayout(self._handles.kvstore, self._folder, self._patience)
        self._described: set[str] = set()  # arrays whose layout was looked at before a write
        self._faulty: set[str] = set()  # arrays of which a read failed
        self._lock = Lock()

    def write_shard(self, spec: ArraySpec, shard: int, rows: npt.NDArray[np.generic]) -> None:
        if rows.shape != (spec.shard_rows, *spec.row_shape) or rows.dtype != np.dtype(spec.dtype):
            raise InvariantError(f"shard {shard} of {spec.name} got rows {rows.dtype}{list(rows.shape)}")
        name = self.object_name(spec, shard)
        self._describe(spec)
        array = self._handles.cached(spec)
        start = shard * spec.shard_rows
        if self._folder is not None:
            _remove_left_lock(self._folder, name)
        try:
            if self._is_new(spec, name):
                array = self._handles.uncached(spec)
            array[start : start + spec.shard_rows].write(np.ascontiguousarray(rows)).result()
        except (ValueError, OSError) as error:
            raise tensorstore_fault(error, doing=f"writing {name}", object_name=name) from error

    def read(self, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.read_many(spec, [(start, stop)])[0]

    def read_many(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.generic]]:
        rows = []
        for found in self._read(spec, spans):
            if isinstance(found, StorageError):
                raise found from found.__cause__
            rows.append(found)
        return rows

    def read_each(
        self, spec: ArraySpec, spans: Sequence[tuple[int, int]]
    ) -> list[npt.NDArray[np.generic] | StorageError]:
        try:
            return self._read(spec, spans)
        except StorageError as error:  # the array cannot be opened
            return [error if start < stop else _no_rows(spec) for start, stop in spans]

    def _read(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.generic] | StorageError]:
        found: list[npt.NDArray[np.generic] | StorageError] = [_no_rows(spec)] * len(spans)
        wanted = [number for number, (start, stop) in enumerate(spans) if start < stop]
        if not wanted:
            return found
        array = self._handles.cached(spec)
        end = self._patience.end()
        # a batch coalesces reads of one shard; an index-array gather would be slower
        with ts.Batch() as batch:
            futures = [array[spans[number][0] : spans[number][1]].read(batch=batch) for number in wanted]
        for number, rows in zip(wanted, self._patience.gather(futures, end), strict=True):
            found[number] = self._read_fault(spec, *spans[number], rows) if isinstance(rows, Exception) else rows
        return found

    def prefetch(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> None:
        array = self._handles.opened(spec)
        if array is None or self._patience.is_doubting:
            return  # whoever needs them finds out soon enough
        size = spec.chunk_rows
        chunks = {chunk for start, stop in spans if start < stop for chunk in range(start // size, -(-stop // size))}
        self._ahead.fetch(spec, array, sorted(chunks))

    def gather(self, spec: ArraySpec, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        distinct, places = np.unique(rows, return_inverse=True)
        return np.concatenate([_no_rows(spec), *self.read_many(spec, runs_of(distinct))])[places]

    def forget(self) -> None:
        self._handles.forget()
        self._ahead.forget()

    def read_shard(self, spec: ArraySpec, shard: int) -> npt.NDArray[np.generic]:
        start, stop = shard * spec.shard_rows, (shard + 1) * spec.shard_rows
        name = self.object_name(spec, shard)
        try:
            end = self._patience.end()
            rows: npt.NDArray[np.generic] = self._patience.wait(self._handles.fresh(spec)[start:stop].read(), end)
        except (ValueError, OSError) as error:
            raise self._read_fault(spec, start, stop, error) from error
        if rows.shape != (spec.shard_rows, *spec.row_shape):
            raise InvariantError(f"{name} gave rows {list(rows.shape)}")
        return rows

    def damaged_layout(self, specs: Sequence[ArraySpec]) -> list[LayoutDamage]:
        return self._layout.damages(specs)

    def mend_layout(self, specs: Sequence[ArraySpec]) -> None:
        self._layout.mend(specs)

    def object_name(self, spec: ArraySpec, shard: int) -> str:
        inner = "/0" * len(spec.row_shape)
        return f"{ARRAYS_FOLDER}/{spec.name}/c/{shard}{inner}"

    def num_bytes(self) -> int:
        return sum(num_bytes for _, num_bytes in self._objects())

    def has_shard(self, spec: ArraySpec, shard: int) -> bool:
        key = self.object_name(spec, shard).removeprefix(f"{ARRAYS_FOLDER}/")
        return has_object(self._folder, self._handles.kvstore, ARRAYS_FOLDER, key, self._patience)

    def orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        return [
            Orphan(object_name=f"{ARRAYS_FOLDER}/{key}", num_bytes=num_bytes)
            for key, num_bytes in self._objects()
            if _is_orphan(key, num_shards)
        ]

    def remove_orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        orphans = sorted(self.orphans(num_shards), key=_place, reverse=True)
        for orphan in orphans:
            key = orphan.object_name.removeprefix(f"{ARRAYS_FOLDER}/")
            delete_object(self._folder, self._handles.kvstore, ARRAYS_FOLDER, key)
        if orphans:
            self.forget()  # rows of theirs; the next that are written there go past the cache
        return orphans

    def _objects(self) -> list[tuple[str, int]]:
        return sized_objects(self._folder, self._handles.kvstore, ARRAYS_FOLDER, self._patience)

    def _describe(self, spec: ArraySpec) -> None:
        """Write the layout before the first shard; on a local disk, look again before each one, so that rewriting
        shards also mends it."""
        with self._lock:
            if self._folder is not None or spec.name not in self._described:
                self._layout.mend([spec])
                self._described.add(spec.name)

    def _is_new(self, spec: ArraySpec, name: str) -> bool:
        """Whether nobody can have read this shard, not even as missing: then no cache has to learn of it."""
        return self._folder is not None and spec.name not in self._faulty and not (self._folder / name).exists()

    def _read_fault(self, spec: ArraySpec, start: int, stop: int, error: Exception) -> StorageError:
        self._faulty.add(spec.name)
        self._ahead.forget()
        named = _SHARD_KEY.search(str(error))
        shard = int(named.group(1)) if named else start // spec.shard_rows
        rows = f"reading rows [{start}, {stop}) of {spec.name}"
        fault = tensorstore_fault(error, doing=rows, object_name=self.object_name(spec, shard))
        assert isinstance(fault, StorageError), fault
        fault.__cause__ = error
        return fault


def _remove_left_lock(folder: Path, name: str) -> None:
    """Remove what a killed process left of this shard (there is one writer at a time: decision 6).

    TensorStore fills a lock file and renames it, but does not cut off what an abandoned longer one held already.
    """
    with os_faults(f"writing {name}", name):
        (folder / f"{name}{_LOCK_SUFFIX}").unlink(missing_ok=True)


def _is_orphan(key: str, num_shards: Mapping[str, int]) -> bool:
    """Nothing is an orphan that has not the name of one."""
    if key.endswith(_LOCK_SUFFIX):
        return True
    named = _SHARD_NAME.fullmatch(key)
    return named is not None and int(named[2]) >= num_shards.get(named[1], int(named[2]) + 1)


def _place(orphan: Orphan) -> tuple[str, int]:
    """Array and shard: of all shards the first one of the tokens is least."""
    named = _SHARD_NAME.fullmatch(orphan.object_name.removeprefix(f"{ARRAYS_FOLDER}/"))
    return (named[1], int(named[2])) if named is not None else ("~", 0)


def _no_rows(spec: ArraySpec) -> npt.NDArray[np.generic]:
    return np.empty((0, *spec.row_shape), dtype=spec.dtype)
