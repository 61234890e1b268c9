"""Connections to the catalog's file: a durable one for writing, a careful one for reading, also from read-only media.

One reads the last commit, one writes: a transaction in progress is invisible to readers of this process as of any
other. Calls from several threads take turns.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import RLock
from urllib.parse import quote

from megacontext.catalog.faults import folder_fault, sqlite_faults
from megacontext.errors import CorruptionError, InvariantError, MemoryClosedError, MemoryReadOnlyError

__all__ = ["BUSY_TIMEOUT_MS", "BrokenConnections", "CatalogConnections", "connect"]

BUSY_TIMEOUT_MS = 5_000
_CACHED_STATEMENTS = 256
_PRIMARY_CODE = 0xFF


def connect(path: Path, *, mode: str, immutable: bool = False) -> sqlite3.Connection:
    """mode: rw or ro. Every commit is synced to the disk (``synchronous=FULL``)."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_MS / 1000,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # we serialise the calls
        cached_statements=_CACHED_STATEMENTS,
    )
    try:
        if mode == "ro":
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class BrokenConnections:
    """Stands in where the file cannot be opened: every use says why, so that a memory can be opened to be repaired."""

    def __init__(self, path: Path, error: CorruptionError, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.error = error

    def reading(self, *, transaction: bool = True) -> AbstractContextManager[sqlite3.Connection]:
        raise CorruptionError(str(self.error)) from self.error

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        if self.read_only:
            raise MemoryReadOnlyError(f"{self.path} was opened for reading only; open the memory for writing")
        raise CorruptionError(str(self.error)) from self.error

    def alone(self) -> AbstractContextManager[object]:
        return self.writing()

    def close(self) -> None:
        self.error = CorruptionError(f"{self.path} was closed; open the memory again")


class CatalogConnections:
    """Opened at once for reading, for writing at the first write."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._read_lock, self._write_lock = RLock(), RLock()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._on_read_only_media = False
        self._reader: sqlite3.Connection | None = self._open_reader()
        self._writer: sqlite3.Connection | None = None
        self._writing = False

    @contextmanager
    def reading(self, *, transaction: bool = True) -> Iterator[sqlite3.Connection]:
        """A read transaction: everything in it sees the same commit."""
        with self._read_lock, sqlite_faults(str(self.path)):
            reader = self._require_open()
            if transaction:
                reader.execute("BEGIN")
            try:
                yield reader
            finally:
                if reader.in_transaction:
                    with suppress(sqlite3.Error):  # ending a read changes nothing
                        reader.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The one transaction at a time that may change things; the caller commits, anything else rolls back."""
        with self._write_lock, sqlite_faults(str(self.path)):
            if self._writing:
                raise InvariantError("a transaction of this catalog is open already; transactions do not nest")
            writer = self.writer()
            writer.execute("BEGIN IMMEDIATE")
            self._writing = True
            try:
                yield writer
            finally:
                self._writing = False
                if writer.in_transaction:
                    with suppress(sqlite3.Error):  # what failed before says more
                        writer.execute("ROLLBACK")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other thread reads or writes, and no transaction is open: a connection of its own may rewrite the
        file, which these notice."""
        with self._write_lock, self._read_lock:
            yield

    def writer(self) -> sqlite3.Connection:
        self._require_open()
        if self.read_only:
            raise MemoryReadOnlyError(f"{self.path} was opened for reading only; open the memory for writing")
        if self._on_read_only_media:
            raise MemoryReadOnlyError(f"{self.path} is on read-only media; copy the memory elsewhere to change it")
        if self._writer is None:
            self._writer = connect(self.path, mode="rw")
        return self._writer

    def close(self) -> None:
        """Closing folds the write-ahead log into the file; closing again does nothing."""
        with self._write_lock, self._read_lock, sqlite_faults(str(self.path)):
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    def _require_open(self) -> sqlite3.Connection:
        if self._reader is None:
            raise MemoryClosedError(f"{self.path} was closed; open the memory again")
        return self._reader

    def _open_reader(self) -> sqlite3.Connection:
        """Beside a writer where possible.

        SQLite's write-ahead log needs a shared-memory file beside the database. Where that cannot be made (read-only
        media), a database without a log is opened as immutable; one with a log left by a crash is read from a copy,
        because ``immutable`` would ignore what was committed last.
        """
        reader = connect(self.path, mode="ro")
        try:
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            reader.close()
            if error.sqlite_errorcode & _PRIMARY_CODE not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
        except sqlite3.Error:
            reader.close()
            raise
        else:
            return reader
        self._on_read_only_media = True
        if in_the_way := folder_fault(self.path):
            raise in_the_way
        log = self.path.with_name(f"{self.path.name}-wal")
        if not log.exists() or log.stat().st_size == 0:
            return connect(self.path, mode="ro", immutable=True)
        self._copy = tempfile.TemporaryDirectory(prefix="megacontext-")
        for file in (self.path, log):
            shutil.copyfile(file, Path(self._copy.name) / file.name)
        return connect(Path(self._copy.name) / self.path.name, mode="ro")
