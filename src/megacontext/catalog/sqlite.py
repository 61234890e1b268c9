"""The catalog of a memory in one SQLite file.

Two connections: one reads the last commit, one writes; a transaction in progress is invisible to readers of this
process as of any other. Calls from several threads take turns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

import numpy as np
import numpy.typing as npt

from megacontext.catalog import queries
from megacontext.catalog.checking import check_catalog
from megacontext.catalog.checksums import row_crc
from megacontext.catalog.connections import connect, open_for_reading
from megacontext.catalog.creation import create_database
from megacontext.catalog.faults import sqlite_faults
from megacontext.catalog.rows import CATALOG_FILE
from megacontext.catalog.upgrades import require_schema, schema_revision, upgrade_schema
from megacontext.catalog.word_index import WordIndex
from megacontext.catalog.writing import SqliteWriter
from megacontext.errors import (
    CorruptionError,
    InvariantError,
    MemoryClosedError,
    MemoryNotFoundError,
    MemoryReadOnlyError,
)
from megacontext.ports.catalog import CatalogState, Damage, Extent, MemoryInfo, SearchHit, Segment, Source
from megacontext.ports.gister import GistBatch

__all__ = ["SqliteCatalog"]


class SqliteCatalog:
    """Catalog in ``<folder>/catalog.sqlite``; see ``create`` and ``open``."""

    info: MemoryInfo

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._path = folder / CATALOG_FILE
        self._name = str(self._path)
        self._read_lock, self._write_lock = RLock(), RLock()
        self._words = WordIndex()
        self._writer: sqlite3.Connection | None = None
        self._read_only = read_only
        self._closed = False
        self._writing = False
        if not self._path.is_file():
            raise MemoryNotFoundError(f"there is no memory at {folder}; create one with 'megacontext init {folder}'")
        with sqlite_faults(self._name):
            opened = open_for_reading(self._path)
            self._reader, self._copy = opened.connection, opened.copy
            try:
                self._require_schema()
                self.info = queries.read_info(self._reader)
            except BaseException:
                self.close()
                raise

    @classmethod
    def create(cls, folder: Path, info: MemoryInfo) -> SqliteCatalog:
        """A new catalog, whole or not at all; the folder must exist. Raises MemoryExistsError."""
        create_database(folder / CATALOG_FILE, info)
        return cls(folder, read_only=False)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> SqliteCatalog:
        """Raises MemoryNotFoundError, SchemaVersionError, CorruptionError. An older schema is migrated first, in one
        transaction, unless ``read_only``."""
        return cls(folder, read_only=read_only)

    def state(self) -> CatalogState:
        with self._reading() as connection:
            progress = queries.read_progress(connection)
            return CatalogState(
                num_tokens=progress.num_tokens,
                sealed_tokens=progress.sealed_tokens,
                sealed_nodes=queries.read_sealed_nodes(connection),
                indexed_tokens=progress.indexed_tokens,
                num_sources=progress.num_sources,
            )

    @contextmanager
    def write(self) -> Iterator[SqliteWriter]:
        with self._write_lock, sqlite_faults(self._name):
            if self._writing:
                raise InvariantError("a transaction of this catalog is open already; transactions do not nest")
            connection = self._writing_connection()
            connection.execute("BEGIN IMMEDIATE")
            self._writing = True
            try:
                writer = SqliteWriter(connection, self.info)
                yield writer
                writer.finish()
                connection.execute("COMMIT")
            finally:
                self._writing = False
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # what failed before says more
                        connection.execute("ROLLBACK")

    def tail(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.uint32]]:
        with self._reading() as connection:
            progress = queries.read_progress(connection)
            return progress.sealed_tokens, queries.read_tail(connection, progress, start, stop)

    def gists(self, level: int, start_node: int, stop_node: int) -> list[tuple[int, GistBatch]]:
        with self._reading() as connection:
            return queries.read_gists(connection, self.info, level, start_node, stop_node)

    def sources(self, *, uri: str | None = None) -> list[Source]:
        with self._reading() as connection:
            return queries.read_sources(connection, uri=uri)

    def extents(self, token_start: int, token_stop: int) -> list[tuple[Source, Extent]]:
        with self._reading() as connection:
            return queries.read_extents(connection, token_start, token_stop)

    def segments(self) -> list[Segment]:
        with self._reading() as connection:
            return queries.read_segments(connection)

    def search(self, text: str, *, limit: int) -> list[SearchHit]:
        with self._reading() as connection:
            indexed_tokens = queries.read_progress(connection).indexed_tokens
            found = self._words.search(connection, text, limit=limit, indexed_tokens=indexed_tokens)
            for hit, num_terms, crc in found:
                if row_crc((hit.token_start, hit.token_stop, num_terms)) != crc:
                    raise CorruptionError(f"{self._name}: passage {hit.token_start} fails its checksum")
            return [hit for hit, _, _ in found]

    def check(self) -> Iterator[Damage]:
        with self._read_lock:
            self._require_open()
            yield from check_catalog(self._reader, self._path, self.info)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._path.parent.glob(f"{CATALOG_FILE}*"))

    def close(self) -> None:
        """Closing folds the write-ahead log into the file; closing again does nothing."""
        with self._write_lock, self._read_lock, sqlite_faults(self._name):
            self._closed = True
            self._reader.close()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One read transaction: everything in it sees the same commit."""
        with self._read_lock, sqlite_faults(self._name):
            self._require_open()
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("COMMIT")

    def _require_open(self) -> None:
        if self._closed:
            raise MemoryClosedError(f"{self._name} was closed; open the memory again")

    def _require_schema(self) -> None:
        revision = schema_revision(self._reader, self._name)
        if require_schema(revision, self._name, may_upgrade=not self._read_only):
            upgrade_schema(self._writing_connection())

    def _writing_connection(self) -> sqlite3.Connection:
        self._require_open()
        if self._read_only:
            raise MemoryReadOnlyError(f"{self._name} was opened for reading only; open the memory for writing")
        if self._copy is not None:
            raise MemoryReadOnlyError(
                f"{self._name} is on read-only media; copy the memory somewhere else to change it"
            )
        if self._writer is None:
            self._writer = connect(self._path, mode="rw")
        return self._writer
