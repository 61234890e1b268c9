"""Sealed arrays and raw blobs at rest. Narrow on purpose, so that another engine can stand in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from megacontext.errors import StorageError

__all__ = [
    "ArraySpec",
    "ArrayStore",
    "BlobSink",
    "BlobStore",
    "LayoutDamage",
    "Orphan",
    "SupportsLongBlobs",
    "SupportsPrefetch",
]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One growing array of rows, written one whole shard at a time.

    name: for example ``lod0`` or ``lod1``; row_shape: () for tokens, (r, d) for gists; dtype: numpy name.
    """

    name: str
    row_shape: tuple[int, ...]
    dtype: str
    shard_rows: int
    chunk_rows: int
    compress: bool = False

    @property
    def chunk_bytes(self) -> int:
        """Of one chunk, decoded."""
        return self.chunk_rows * math.prod(self.row_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class LayoutDamage:
    """A file that describes arrays and is not as its store writes it. array: its name, '' if it is about all."""

    object_name: str
    array: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """An object that lies in a store and that no commit refers to."""

    object_name: str
    num_bytes: int


class ArrayStore(Protocol):
    """Write-once shards with checksums. Who may read how far is the catalog's business, not the store's.

    Errors: StorageFullError, StorageError; CorruptionError naming the object when a checksum fails or a shard is
    missing; StorageTimeoutError from a read that takes too long, since none may hang.
    """

    def write_shard(self, spec: ArraySpec, shard: int, rows: npt.NDArray[np.generic]) -> None:
        """Write rows ``[shard * shard_rows, (shard + 1) * shard_rows)``; durable on return. Rewriting is allowed
        (a retry after a crash)."""
        ...

    def read(self, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Rows ``[start, stop)``."""
        ...

    def read_many(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.generic]]:
        """Many row spans in one batch of parallel reads."""
        ...

    def read_each(
        self, spec: ArraySpec, spans: Sequence[tuple[int, int]]
    ) -> list[npt.NDArray[np.generic] | StorageError]:
        """The same, with the error in place of the rows of each span that cannot be read."""
        ...

    def gather(self, spec: ArraySpec, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """Single rows in any order, also several times the same."""
        ...

    def forget(self) -> None:
        """Drop what is kept in memory of what was read: another process has written shards again."""
        ...

    def read_shard(self, spec: ArraySpec, shard: int) -> npt.NDArray[np.generic]:
        """All rows of one shard from the medium itself, past every cache (for checks); damage of the layout does not
        stand in its way."""
        ...

    def damaged_layout(self, specs: Sequence[ArraySpec]) -> list[LayoutDamage]:
        """What describes these arrays, all of them written before, and is missing or differs in any byte from what
        this store writes."""
        ...

    def mend_layout(self, specs: Sequence[ArraySpec]) -> None:
        """Write anew whatever ``damaged_layout`` names."""
        ...

    def object_name(self, spec: ArraySpec, shard: int) -> str:
        """The file or object that holds a shard, for messages; relative to the memory."""
        ...

    def num_bytes(self) -> int:
        """Bytes on disk of all shards."""
        ...

    def has_shard(self, spec: ArraySpec, shard: int) -> bool:
        """Whether something lies where a shard has its place; it may be damaged."""
        ...

    def orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        """Of these arrays, what lies behind the shards that are in use, by array as many as ``num_shards`` says; and
        what killed writers left half done. Beside a writer that may be what it is writing."""
        ...

    def remove_orphans(self, num_shards: Mapping[str, int]) -> list[Orphan]:
        """Delete these, so that ``has_shard`` sees the first one until all are gone; what they were. Only the one
        writer may call it, and not beside its own writes."""
        ...


@runtime_checkable
class SupportsPrefetch(Protocol):
    """An ArrayStore whose reads may take long, and that can begin them before they are needed."""

    def prefetch(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch these rows for whoever reads them soon, within the limits of its cache, and return at once.
        Nothing is promised, and nothing raised."""
        ...


class BlobStore(Protocol):
    """Content-addressed, compressed raw bytes: the truth that everything else is rebuilt from."""

    def put(self, data: bytes) -> str:
        """Store (durable on return); the sha256 in hexadecimal. Storing the same bytes again costs a verification,
        and heals a damaged copy."""
        ...

    def put_many(self, blobs: Sequence[bytes]) -> list[str]:
        """``put`` for many at once, with fewer waits for the disk."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes, verified against their digest; CorruptionError if they do not match or are missing."""
        ...

    def digests(self) -> Iterator[str]: ...

    def delete(self, digest: str) -> None: ...

    def object_name(self, digest: str) -> str: ...

    def num_bytes(self) -> int: ...

    def orphans(self, kept: AbstractSet[str] | None) -> list[Orphan]:
        """What killed writers left half done, and blobs whose digests are not ``kept``; None keeps all. Beside a
        writer that may be what it is writing."""
        ...

    def remove_orphans(self, kept: AbstractSet[str] | None) -> list[Orphan]:
        """Delete these; what they were. Only the one writer may call it, and not beside its own writes."""
        ...


class BlobSink(Protocol):
    """One blob on its way into a store."""

    def write(self, data: bytes) -> None:
        """The next bytes."""
        ...

    def finish(self) -> str:
        """Store what was written (durable on return); the sha256 in hexadecimal."""
        ...


@runtime_checkable
class SupportsLongBlobs(Protocol):
    """The optional power of a BlobStore to keep blobs that do not fit into memory."""

    def stream(self) -> AbstractContextManager[BlobSink]:
        """A blob that comes in pieces; what was not finished when the block ends leaves nothing."""
        ...

    def pieces(self, digest: str) -> Iterator[bytes]:
        """The bytes in order; CorruptionError, at the latest behind the last piece, if they do not match their
        digest or are missing."""
        ...

    def part(self, digest: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), verified by a checksum that the store keeps of them; CorruptionError."""
        ...

    def reads_parts(self, digest: str) -> bool:
        """Whether a part of this blob costs less than all of it; CorruptionError if it is missing."""
        ...
