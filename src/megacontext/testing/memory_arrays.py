"""Arrays and blobs in dictionaries: perfect stores to test against, with room to fail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from threading import Lock

import numpy as np
import numpy.typing as npt

from megacontext.errors import CorruptionError, StorageError, StorageFullError, StorageTimeoutError
from megacontext.ports.arrays import ArraySpec, LayoutDamage, Orphan

__all__ = ["MemoryArrays", "MemoryBlobs"]


class MemoryArrays:
    """ArrayStore double, with prefetch.

    capacity_bytes: writes beyond it fail as on a full disk; may be changed at any time. layout: what describes the
    arrays, by object name; damage it at will. silent: (array, shard) that answer no read in time. ahead: what was
    prefetched, as (array, start, stop).
    """

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self._shards: dict[tuple[str, int], npt.NDArray[np.generic]] = {}
        self._lock = Lock()  # shards are written from several threads
        self.layout: dict[str, bytes] = {}
        self.silent: set[tuple[str, int]] = set()
        self.ahead: list[tuple[str, int, int]] = []

    def write_shard(self, spec: ArraySpec, shard: int, rows: npt.NDArray[np.generic]) -> None:
        assert rows.shape == (spec.shard_rows, *spec.row_shape), (spec.name, rows.shape)
        assert rows.dtype == np.dtype(spec.dtype), (spec.name, rows.dtype)
        with self._lock:
            old = self._shards.get((spec.name, shard))
            num_bytes = self.num_bytes() - (old.nbytes if old is not None else 0) + rows.nbytes
            if self.capacity_bytes is not None and num_bytes > self.capacity_bytes:
                raise StorageFullError(f"no space left while writing {self.object_name(spec, shard)}")
            self._shards[spec.name, shard] = rows.copy()
            self.mend_layout([spec])

    def read(self, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[np.generic]:
        pieces = [np.empty((0, *spec.row_shape), dtype=spec.dtype)]
        while start < stop:
            shard, first = divmod(start, spec.shard_rows)
            piece = self.read_shard(spec, shard)[first : first + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)

    def read_many(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.generic]]:
        return [self.read(spec, start, stop) for start, stop in spans]

    def read_each(
        self, spec: ArraySpec, spans: Sequence[tuple[int, int]]
    ) -> list[npt.NDArray[np.generic] | StorageError]:
        found: list[npt.NDArray[np.generic] | StorageError] = []
        for start, stop in spans:
            try:
                found.append(self.read(spec, start, stop))
            except StorageError as error:
                found.append(error)
        return found

    def gather(self, spec: ArraySpec, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        return np.concatenate([self.read(spec, 0, 0), *(self.read(spec, row, row + 1) for row in rows.tolist())])

    def forget(self) -> None:
        """Nothing is kept beside what is stored."""

    def read_shard(self, spec: ArraySpec, shard: int) -> npt.NDArray[np.generic]:
        if (spec.name, shard) in self.silent:
            raise StorageTimeoutError(f"reading {self.object_name(spec, shard)} took too long")
        if (spec.name, shard) not in self._shards:
            raise CorruptionError(f"{self.object_name(spec, shard)} is missing")
        return self._shards[spec.name, shard].copy()

    def prefetch(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> None:
        self.ahead += [(spec.name, start, stop) for start, stop in spans if start < stop]

    def damaged_layout(self, specs: Sequence[ArraySpec]) -> list[LayoutDamage]:
        return [
            LayoutDamage(object_name=name, array=array, problem="is missing or altered")
            for name, array, content in _layout_of(specs)
            if self.layout.get(name) != content
        ]

    def mend_layout(self, specs: Sequence[ArraySpec]) -> None:
        self.layout.update({name: content for name, _, content in _layout_of(specs)})

    def object_name(self, spec: ArraySpec, shard: int) -> str:
        return f"arrays/{spec.name}/c/{shard}"

    def num_bytes(self) -> int:
        return sum(rows.nbytes for rows in self._shards.values())

    def has_shard(self, spec: ArraySpec, shard: int) -> bool:
        return (spec.name, shard) in self._shards

    def orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        return [
            Orphan(object_name=f"arrays/{array}/c/{shard}", num_bytes=rows.nbytes)
            for (array, shard), rows in self._shards.items()
            if shard >= num_shards.get(array, shard + 1)
        ]

    def remove_orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        orphans = self.orphans(num_shards)
        with self._lock:
            self._shards = {
                key: rows for key, rows in self._shards.items() if key[1] < num_shards.get(key[0], key[1] + 1)
            }
        return orphans

    def lose(self, spec: ArraySpec, shard: int) -> None:
        """Damage: reading this shard fails until it is written again."""
        del self._shards[spec.name, shard]


def _layout_of(specs: Sequence[ArraySpec]) -> list[tuple[str, str, bytes]]:
    """(object name, array, content) of what describes these arrays."""
    group = [("arrays/layout", "", b"arrays")] if specs else []
    return group + [(f"arrays/{spec.name}/layout", spec.name, repr(spec).encode()) for spec in specs]


class MemoryBlobs:
    """BlobStore double. capacity_bytes as in MemoryArrays."""

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self._blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        return self.put_many([data])[0]

    def put_many(self, blobs: Sequence[bytes]) -> list[str]:
        added = {hashlib.sha256(data).hexdigest(): data for data in blobs}
        num_bytes = sum(map(len, {**self._blobs, **added}.values()))
        if self.capacity_bytes is not None and num_bytes > self.capacity_bytes:
            raise StorageFullError("no space left while storing raw sources")
        self._blobs.update(added)
        return [hashlib.sha256(data).hexdigest() for data in blobs]

    @contextmanager
    def stream(self) -> Iterator[_MemorySink]:
        yield _MemorySink(self)

    def pieces(self, digest: str) -> Iterator[bytes]:
        yield self.get(digest)

    def reads_parts(self, digest: str) -> bool:
        return digest in self._blobs

    def part(self, digest: str, start: int, stop: int) -> bytes:
        return self.get(digest)[start:stop]

    def get(self, digest: str) -> bytes:
        if digest not in self._blobs:
            raise CorruptionError(f"{self.object_name(digest)} is missing")
        return self._blobs[digest]

    def digests(self) -> Iterator[str]:
        yield from sorted(self._blobs)

    def delete(self, digest: str) -> None:
        self._blobs.pop(digest, None)

    def object_name(self, digest: str) -> str:
        return f"raw/{digest[:2]}/{digest}"

    def num_bytes(self) -> int:
        return sum(map(len, self._blobs.values()))

    def orphans(self, kept: AbstractSet[str] | None) -> list[Orphan]:
        if kept is None:
            return []
        return [
            Orphan(object_name=self.object_name(digest), num_bytes=len(data))
            for digest, data in self._blobs.items()
            if digest not in kept
        ]

    def remove_orphans(self, kept: AbstractSet[str] | None) -> list[Orphan]:
        orphans = self.orphans(kept)
        for orphan in orphans:
            self.delete(orphan.object_name.rpartition("/")[2])
        return orphans


class _MemorySink:
    """BlobSink double."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data

    def finish(self) -> str:
        return self._blobs.put(bytes(self._data))
