"""The catalog of a memory in one SQLite file, with a journal beside it as a second copy of what matters most."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megacontext.catalog import queries
from megacontext.catalog.backup import compact_database, has_traces, note_no_traces, note_traces
from megacontext.catalog.checking import broken_file, check_catalog
from megacontext.catalog.checksums import row_crc
from megacontext.catalog.connections import BrokenConnections, CatalogConnections
from megacontext.catalog.creation import create_database, is_file, no_memory
from megacontext.catalog.faults import file_faults
from megacontext.catalog.journal import JOURNAL_FILE, Journal, lost_commits
from megacontext.catalog.newest import NewestRows
from megacontext.catalog.opening import journaled_info, open_connections
from megacontext.catalog.rebuilding import everything, intact, rebuild_database
from megacontext.catalog.rows import CATALOG_FILE
from megacontext.catalog.word_index import WordIndex
from megacontext.catalog.writing import SqliteWriter
from megacontext.errors import CorruptionError, MegaContextError, StorageError
from megacontext.ports.catalog import CatalogState, Damage, Extent, MemoryInfo, SearchHit, Segment, Source
from megacontext.ports.gister import GistBatch

__all__ = ["SqliteCatalog"]

_COMPACT_AGAIN_S = 60.0  # between two attempts where somebody reads all the time: each rewrites the whole file
_log = logging.getLogger(__name__)


class SqliteCatalog:
    """Catalog in ``<folder>/catalog.sqlite``; see ``create`` and ``open``."""

    info: MemoryInfo
    _connections: CatalogConnections | BrokenConnections

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._path = folder / CATALOG_FILE
        self._words = WordIndex()
        self._newest: NewestRows | None = None
        self._journal = Journal(folder / JOURNAL_FILE)
        self._compact_from = 0.0  # on the clock of ``time.monotonic``
        is_there = is_file(self._path)
        if not is_there and not is_file(folder / JOURNAL_FILE):
            raise no_memory(folder)
        try:
            if self._path.is_dir():
                raise CorruptionError(f"{self._path} is a folder; remove it, then run 'megacontext check --repair'")
            if not is_there:
                raise CorruptionError(f"{self._path} is missing; run 'megacontext check --repair'")
            self._connections, self.info = open_connections(self._path, self._journal, read_only=read_only)
        except CorruptionError as error:
            self.info = journaled_info(self._path, error)
            self._connections = BrokenConnections(self._path, error, read_only=read_only)

    @classmethod
    def create(cls, folder: Path, info: MemoryInfo) -> SqliteCatalog:
        """A new catalog, whole or not at all; the folder must exist. Raises MemoryExistsError."""
        create_database(folder / CATALOG_FILE, info)
        catalog = cls(folder, read_only=False)
        with catalog._connections.reading(transaction=False) as connection:
            catalog._journal.begin(everything(connection))
        return catalog

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> SqliteCatalog:
        """Raises MemoryNotFoundError, SchemaVersionError. An older schema is migrated first, in one transaction, unless
        ``read_only``. A damaged or lost file whose journal says what the memory is made of is opened nevertheless,
        to be checked and rebuilt, and every read of it raises CorruptionError; without a journal opening does."""
        return cls(folder, read_only=read_only)

    def state(self) -> CatalogState:
        with self._connections.reading() as connection:
            progress = queries.read_progress(connection)
            return CatalogState(
                num_tokens=progress.num_tokens,
                sealed_tokens=progress.sealed_tokens,
                sealed_nodes=queries.read_sealed_nodes(connection),
                indexed_tokens=progress.indexed_tokens,
                num_sources=progress.num_sources,
            )

    def num_erased(self) -> int:
        with self._connections.reading() as connection:
            return queries.count_erased(connection)

    @contextmanager
    def write(self) -> Iterator[SqliteWriter]:
        if time.monotonic() >= self._compact_from and has_traces(self._path):
            try:
                self.compact()
            except StorageError as error:  # with a later change
                self._compact_from = time.monotonic() + _COMPACT_AGAIN_S
                _log.warning("%s may still hold traces of what was erased: %s", self._path, error)
        with self._connections.writing() as connection:
            last, self._newest = self._newest, None
            writer = SqliteWriter(connection, self.info, last)
            if self._journal.last_commit() > writer.num_commits:
                raise lost_commits(self._path, self._journal.last_commit() - writer.num_commits)
            yield writer
            if writer.has_erased:
                note_traces(self._path)
            changes = writer.finish()
            connection.execute("COMMIT")
            self._newest = writer.newest
            try:
                self._journal.record(writer.num_commits, changes, intact(connection))
            except (CorruptionError, sqlite3.DatabaseError) as error:  # the commit itself is safe
                _log.warning("%s is left as it is: %s", JOURNAL_FILE, error)

    def tail(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.uint32]]:
        with self._connections.reading() as connection:
            progress = queries.read_progress(connection)
            return progress.sealed_tokens, queries.read_tail(connection, progress, start, stop)

    def gists(self, level: int, start_node: int, stop_node: int) -> list[tuple[int, GistBatch]]:
        with self._connections.reading(transaction=False) as connection:
            return queries.read_gists(connection, self.info, level, start_node, stop_node)

    def sources(self, *, uri: str | None = None) -> list[Source]:
        with self._connections.reading() as connection:
            return queries.read_sources(connection, uri=uri)

    def newest_source(self, uri: str) -> Source | None:
        with self._connections.reading() as connection:
            return queries.newest_source_of(connection, uri)

    def extents(self, token_start: int, token_stop: int) -> list[tuple[Source, Extent]]:
        with self._connections.reading() as connection:
            return queries.read_extents(connection, token_start, token_stop)

    def segments(self) -> list[Segment]:
        with self._connections.reading(transaction=False) as connection:
            return queries.read_segments(connection)

    def search(self, text: str, *, limit: int) -> list[SearchHit]:
        with self._connections.reading() as connection:
            indexed_tokens = queries.read_progress(connection).indexed_tokens
            found = self._words.search(connection, text, limit=limit, indexed_tokens=indexed_tokens)
            for hit, num_terms, crc in found:
                if row_crc((hit.token_start, hit.token_stop, num_terms)) != crc:
                    raise CorruptionError(f"{self._path}: passage {hit.token_start} fails its checksum")
            return [hit for hit, _, _ in found]

    def check(self) -> Iterator[Damage]:
        if isinstance(self._connections, BrokenConnections):
            yield broken_file(self._connections.error, self._path)
            return
        with self._connections.reading() as connection:
            yield from check_catalog(connection, self._path, self.info)

    def rebuild(self) -> None:
        with suppress(CorruptionError), file_faults(str(self._path)), self._connections.writing() as connection:
            problems = {damage.repairable for damage in check_catalog(connection, self._path, self.info)}
            if "catalog" in problems and "journal" not in problems:
                self._journal.rewrite(queries.read_progress(connection).num_commits, everything(connection))
                return
        self._connections.close()
        try:
            rebuild_database(self._path.parent, has_erased=has_traces(self._path))
            self._journal = Journal(self._path.with_name(JOURNAL_FILE))
            self._connections, self.info = open_connections(self._path, self._journal, read_only=False)
        except MegaContextError as error:  # it stays as it was: what of it can be read still is
            try:
                self._connections, self.info = open_connections(self._path, self._journal, read_only=False)
            except MegaContextError:
                self._connections = BrokenConnections(self._path, CorruptionError(str(error)), read_only=False)
            raise

    def compact(self) -> None:
        with file_faults(str(self._path)), self._connections.alone():
            with self._connections.writing() as connection:  # refuses if nothing may change
                num_commits = queries.read_progress(connection).num_commits
                if self._journal.last_commit() > num_commits:  # it alone has them
                    raise lost_commits(self._path, self._journal.last_commit() - num_commits)
                self._journal.rewrite(num_commits, intact(connection))
            compact_database(self._path)
            note_no_traces(self._path)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._path.parent.glob("catalog.*"))

    def close(self) -> None:
        self._connections.close()
