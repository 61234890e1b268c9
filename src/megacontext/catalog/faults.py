"""What SQLite reports, as errors of ours."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from megacontext.errors import (
    CorruptionError,
    InvalidValueError,
    InvariantError,
    MegaContextError,
    MemoryClosedError,
    MemoryLockedError,
    MemoryNotFoundError,
    MemoryReadOnlyError,
    StorageError,
    StorageFullError,
)

__all__ = ["file_faults", "sqlite_faults"]

_PRIMARY_CODE = 0xFF
_FULL = {sqlite3.SQLITE_FULL}
_FULL_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE}  # the shared-memory file cannot grow
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


@contextmanager
def sqlite_faults(name: str) -> Iterator[None]:
    """Translate what SQLite raises in the block; ``name`` is the catalog's file, for the message."""
    try:
        yield
    except sqlite3.Error as error:
        raise _fault(error, name) from error
    except UnicodeDecodeError as error:
        raise CorruptionError(f"{name} holds text that is none; run 'megacontext check --repair'") from error
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"text for {name} is not valid Unicode ({error.reason}); decode it first") from error


@contextmanager
def file_faults(name: str) -> Iterator[None]:
    """Translate an OSError of the block, for files that we handle ourselves."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"no space left while writing {name}; free some space and try again") from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise MemoryReadOnlyError(
                f"{name} cannot be written ({error.strerror}); make its folder writable"
            ) from error
        if error.errno == errno.ENOENT:
            raise MemoryNotFoundError(f"there is no folder for {name}; make it first") from error
        raise StorageError(f"{name} failed: {error.strerror}") from error


def _fault(error: sqlite3.Error, name: str) -> MegaContextError:
    extended = getattr(error, "sqlite_errorcode", None)
    code = extended & _PRIMARY_CODE if extended is not None else None
    if code in _FULL or extended in _FULL_EXTENDED:
        return StorageFullError(f"no space left while writing {name}; nothing was changed, free some space")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return MemoryReadOnlyError(f"{name} cannot be written ({error}); make the memory's folder writable")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return MemoryLockedError(f"{name} is being written by another process; try again when it is done")
    if code in _DAMAGED:
        return CorruptionError(f"{name} is damaged ({error}); run 'megacontext check --repair'")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return MemoryClosedError(f"{name} was closed; open the memory again")
    if isinstance(error, sqlite3.IntegrityError):
        return InvariantError(f"{name} refused a row: {error}")
    if isinstance(error, sqlite3.OperationalError) and code == sqlite3.SQLITE_ERROR:
        # a table or column that our own statements name is not there: the schema was damaged
        return CorruptionError(f"{name} has a damaged schema ({error}); run 'megacontext check --repair'")
    return StorageError(f"{name} failed: {error}")
