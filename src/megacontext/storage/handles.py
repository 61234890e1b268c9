"""Open TensorStore handles of a memory's arrays: with the shared cache, past it, or with no memory of what was read."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import tensorstore as ts

from megacontext.ports.arrays import ArraySpec
from megacontext.storage.faults import tensorstore_fault
from megacontext.storage.locations import kvstore_spec
from megacontext.storage.patience import Patience
from megacontext.storage.zarr_layout import ARRAYS_FOLDER, metadata_name, zarr_metadata

__all__ = ["ArrayHandles"]

_NO_CACHE = {"cache_pool": {"total_bytes_limit": 0}}


class ArrayHandles:
    """Opens at first use, so that opening a memory costs nothing here. cache_bytes: as ``TensorStoreArrays``;
    patience: how long opening may take.

    ``uncached`` and ``fresh`` raise what TensorStore does: they are part of a write or a read, which says what failed.
    """

    def __init__(self, location: str | Path, *, cache_bytes: int, patience: Patience) -> None:
        self._patience = patience
        self._kvstore = kvstore_spec(location, ARRAYS_FOLDER)
        self._pool_limit = {"cache_pool": {"total_bytes_limit": cache_bytes}}
        self._context = ts.Context(self._pool_limit)
        self._uncached = ts.Context(_NO_CACHE, self._context)
        self._cached: dict[str, Any] = {}
        self._past_cache: dict[str, Any] = {}
        self._lock = Lock()

    def forget(self) -> None:
        """Drop what was read, with the pool that holds it: arrays are opened again, with an empty one."""
        with self._lock:
            self._context = ts.Context(self._pool_limit, self._context)
            self._cached = {}

    def kvstore(self) -> Any:
        """The folder of all arrays."""
        return self._wait(ts.KvStore.open(self._kvstore, context=self._context))

    def cached(self, spec: ArraySpec) -> Any:
        """The array that everybody shares; a reader may come before the writer made it, so a failure is not
        remembered."""
        with self._lock:
            array = self._cached.get(spec.name)
            if array is None:
                array = self._cached[spec.name] = self._open(spec)
            return array

    def opened(self, spec: ArraySpec) -> Any | None:
        """The same if it is open by now: nobody waits for it."""
        return self._cached.get(spec.name)

    def uncached(self, spec: ArraySpec) -> Any:
        """For writing what nobody has read: past the cache, or a bulk ingest would fill it with what nobody reads."""
        with self._lock:
            array = self._past_cache.get(spec.name)
            if array is None:
                opened = self._wait(ts.open(self._spec(spec), open=True, context=self._uncached))
                array = self._past_cache[spec.name] = opened
            return array

    def fresh(self, spec: ArraySpec) -> Any:
        """For reading what lies there: a context of its own, because what another reader holds in memory says nothing
        about the disk; and the layout is known: damage of the file that describes it is no damage of a shard."""
        context = ts.Context(_NO_CACHE, self._context)
        return self._wait(ts.open(self._spec(spec), open=True, assume_metadata=True, context=context))

    def _open(self, spec: ArraySpec) -> Any:
        try:
            return self._wait(ts.open(self._spec(spec), open=True, context=self._context))
        except (ValueError, OSError) as error:
            name = metadata_name(spec.name)
            raise tensorstore_fault(error, doing=f"opening {spec.name}", object_name=name) from error

    def _wait(self, opened: Any) -> Any:
        return self._patience.wait(opened, self._patience.end())

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
