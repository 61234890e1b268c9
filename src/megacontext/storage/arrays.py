"""Sealed arrays on TensorStore: plain zarr v3 with checksums, on files, in memory, on S3 or GCS.

Three decisions carry this module. The shape is declared once as 2^40 rows and never resized, because a resize before
its data would show zeros after a crash: how far an array reaches is the catalog's business. Missing data is an error
(``fill_missing_data_reads``), which needs all-zero chunks to be stored. And a shard is written whole, once, so
replication, caching and object stores stay simple and a retry after a crash rewrites the same bytes.

TensorStore must not be used before a fork; workers are spawned.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from megacontext.errors import InvariantError
from megacontext.ports.arrays import ArraySpec
from megacontext.storage.faults import os_faults, tensorstore_fault
from megacontext.storage.locations import kvstore_spec, local_folder
from megacontext.units import MIB

__all__ = ["ARRAYS_FOLDER", "DECLARED_ROWS", "TensorStoreArrays", "zarr_metadata"]

ARRAYS_FOLDER = "arrays"
DECLARED_ROWS = 1 << 40
_SHARD_KEY = re.compile(r"/c/(\d+)[/\"]")
_LOCK_SUFFIX = ".__lock"
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKSUM = {"name": "crc32c"}

log = logging.getLogger(__name__)


def zarr_metadata(spec: ArraySpec) -> dict[str, Any]:
    """The zarr v3 metadata of an array: one shard per object, checksums on chunks and on the shard's index."""
    compression = [{"name": "zstd", "configuration": {"level": 1}}] if spec.compress else []
    return {
        "shape": [DECLARED_ROWS, *spec.row_shape],
        "data_type": spec.dtype,
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [spec.shard_rows, *spec.row_shape]}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [spec.chunk_rows, *spec.row_shape],
                    "codecs": [_LITTLE_ENDIAN, *compression, _CHECKSUM],
                    "index_codecs": [_LITTLE_ENDIAN, _CHECKSUM],
                    "index_location": "end",
                },
            }
        ],
    }


class TensorStoreArrays:
    """ArrayStore over a folder or any URL of ``locations``.

    cache_bytes bounds the pool of decoded chunks and shard indices; 0 keeps nothing. Arrays are opened at first use,
    so that opening a memory costs nothing here.
    """

    def __init__(self, location: str | Path, *, cache_bytes: int = 64 * MIB) -> None:
        self._location = location
        self._folder = local_folder(location)
        self._kvstore = kvstore_spec(location, ARRAYS_FOLDER)
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        self._uncached = ts.Context({"cache_pool": {"total_bytes_limit": 0}}, self._context)
        self._arrays: dict[str, Any] = {}
        self._written: dict[str, bytes] = {}  # zarr.json of the arrays that were opened for writing
        self._faulty: set[str] = set()  # arrays of which a read failed
        self._lock = Lock()

    def write_shard(self, spec: ArraySpec, shard: int, rows: npt.NDArray[np.generic]) -> None:
        if rows.shape != (spec.shard_rows, *spec.row_shape) or rows.dtype != np.dtype(spec.dtype):
            raise InvariantError(f"shard {shard} of {spec.name} got rows {rows.dtype}{list(rows.shape)}")
        name = self.object_name(spec, shard)
        array = self._array(spec, create=True)
        start = shard * spec.shard_rows
        try:
            if self._is_new(spec, name):  # past the cache, or a bulk ingest would fill it with what nobody reads
                array = ts.open(self._spec(spec), open=True, context=self._uncached).result()
            array[start : start + spec.shard_rows].write(np.ascontiguousarray(rows)).result()
        except (ValueError, OSError) as error:
            raise tensorstore_fault(error, doing=f"writing {name}", object_name=name) from error

    def read(self, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.read_many(spec, [(start, stop)])[0]

    def read_many(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.generic]]:
        if not any(start < stop for start, stop in spans):
            return [self._no_rows(spec) for _ in spans]
        array = self._array(spec)
        # a batch coalesces reads of one shard; an index-array gather would be slower
        with ts.Batch() as batch:
            futures = [array[start:stop].read(batch=batch) if start < stop else None for start, stop in spans]
        results: list[npt.NDArray[np.generic]] = []
        for (start, stop), future in zip(spans, futures, strict=True):
            if future is None:
                results.append(self._no_rows(spec))
                continue
            try:
                results.append(future.result())
            except (ValueError, OSError) as error:
                raise self._read_fault(spec, start, stop, error) from error
        return results

    def read_shard(self, spec: ArraySpec, shard: int) -> npt.NDArray[np.generic]:
        start, stop = shard * spec.shard_rows, (shard + 1) * spec.shard_rows
        name = self.object_name(spec, shard)
        try:
            # a context of its own: what another reader holds in memory says nothing about the disk
            fresh = ts.Context({"cache_pool": {"total_bytes_limit": 0}}, self._context)
            array = ts.open(self._spec(spec), open=True, context=fresh).result()
            rows: npt.NDArray[np.generic] = array[start:stop].read().result()
        except (ValueError, OSError) as error:
            raise self._read_fault(spec, start, stop, error) from error
        if rows.shape != (spec.shard_rows, *spec.row_shape):
            raise InvariantError(f"{name} gave rows {list(rows.shape)}")
        return rows

    def object_name(self, spec: ArraySpec, shard: int) -> str:
        inner = "/0" * len(spec.row_shape)
        return f"{ARRAYS_FOLDER}/{spec.name}/c/{shard}{inner}"

    def num_bytes(self) -> int:
        if self._folder is None:
            kvstore = self._open_kvstore()
            return sum(len(kvstore.read(key).result().value) for key in kvstore.list().result())
        return sum(path.stat().st_size for path in (self._folder / ARRAYS_FOLDER).rglob("*") if path.is_file())

    def remove_orphans(self) -> int:
        if self._folder is None:
            return 0
        orphans = list((self._folder / ARRAYS_FOLDER).rglob(f"*{_LOCK_SUFFIX}"))
        with os_faults("removing orphan locks"):
            for path in orphans:
                path.unlink(missing_ok=True)
        return len(orphans)

    def _array(self, spec: ArraySpec, *, create: bool = False) -> Any:
        """The open array; a reader may come before the writer made it, so a failure is not remembered."""
        with self._lock:
            array = self._arrays.get(spec.name)
            if array is None or (create and self._metadata(spec) != self._written.get(spec.name)):
                array = self._open(spec, create=create)
                self._arrays[spec.name] = array
                if create:
                    self._written[spec.name] = self._metadata(spec)
            return array

    def _open(self, spec: ArraySpec, *, create: bool) -> Any:
        name = f"{ARRAYS_FOLDER}/{spec.name}/zarr.json"
        try:
            if create:
                self._write_group()
            return ts.open(self._spec(spec), open=True, create=create, context=self._context).result()
        except (ValueError, OSError) as error:
            fault = tensorstore_fault(error, doing=f"opening {spec.name}", object_name=name)
            damaged = str(error).startswith(("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT"))
            if not (create and damaged):
                raise fault from error
        log.warning("%s is damaged and is written anew", name)
        self._open_kvstore().write(f"{spec.name}/zarr.json", None).result()
        return ts.open(self._spec(spec), open=True, create=True, context=self._context).result()

    def _is_new(self, spec: ArraySpec, name: str) -> bool:
        """Whether nobody can have read this shard, not even as missing: then no cache has to learn of it."""
        return self._folder is not None and spec.name not in self._faulty and not (self._folder / name).exists()

    def _metadata(self, spec: ArraySpec) -> bytes:
        """The file zarr.json as it is now, b'' if it is missing or not a local file: each write of a shard compares,
        so that rewriting shards also mends their array's metadata."""
        if self._folder is None:
            return b""
        try:
            return (self._folder / ARRAYS_FOLDER / spec.name / "zarr.json").read_bytes()
        except OSError:
            return b""

    def _spec(self, spec: ArraySpec) -> dict[str, Any]:
        return {
            "driver": "zarr3",
            "kvstore": {**self._kvstore, "path": f"{self._kvstore['path']}{spec.name}/"},
            "metadata": zarr_metadata(spec),
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
            "recheck_cached_data": False,  # sealed rows never change
            "recheck_cached_metadata": "open",
        }

    def _write_group(self) -> None:
        """A zarr group on top, so that any zarr reader opens all levels at once."""
        kvstore = self._open_kvstore()
        group = json.dumps({"zarr_format": 3, "node_type": "group"}).encode()
        if kvstore.read("zarr.json").result().value != group:
            kvstore.write("zarr.json", group).result()

    def _open_kvstore(self) -> Any:
        return ts.KvStore.open(self._kvstore, context=self._context).result()

    def _read_fault(self, spec: ArraySpec, start: int, stop: int, error: Exception) -> Exception:
        self._faulty.add(spec.name)
        named = _SHARD_KEY.search(str(error))
        shard = int(named.group(1)) if named else start // spec.shard_rows
        rows = f"reading rows [{start}, {stop}) of {spec.name}"
        return tensorstore_fault(error, doing=rows, object_name=self.object_name(spec, shard))

    def _no_rows(self, spec: ArraySpec) -> npt.NDArray[np.generic]:
        return np.empty((0, *spec.row_shape), dtype=spec.dtype)
