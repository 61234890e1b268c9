"""Connections to the catalog's file: durable ones for writing, careful ones for reading, also from read-only media."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

__all__ = ["BUSY_TIMEOUT_MS", "Opened", "connect", "open_for_reading"]

BUSY_TIMEOUT_MS = 5_000
_CACHED_STATEMENTS = 256


@dataclass
class Opened:
    """A connection for reading; ``copy`` is the temporary folder it reads from, if it had to."""

    connection: sqlite3.Connection
    copy: tempfile.TemporaryDirectory[str] | None = None


def connect(path: Path, *, mode: str, immutable: bool = False) -> sqlite3.Connection:
    """mode: rwc (create), rw, ro. Every commit is synced to the disk (``synchronous=FULL``)."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_MS / 1000,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # the catalog serialises its own calls
        cached_statements=_CACHED_STATEMENTS,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if mode == "ro":
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> Opened:
    """Read beside a writer where possible.

    SQLite's write-ahead log needs a shared-memory file beside the database. Where that cannot be made (read-only
    media), a database without a log is opened as immutable; one with a log left by a crash is read from a copy,
    because ``immutable`` would ignore what was committed last.
    """
    connection = connect(path, mode="ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
    except sqlite3.Error:
        connection.close()
        raise
    else:
        return Opened(connection)
    log = path.with_name(f"{path.name}-wal")
    if not log.exists() or log.stat().st_size == 0:
        return Opened(connect(path, mode="ro", immutable=True))
    copy = tempfile.TemporaryDirectory(prefix="megacontext-")
    for file in (path, log):
        shutil.copyfile(file, Path(copy.name) / file.name)
    return Opened(connect(Path(copy.name) / path.name, mode="ro"), copy)
