"""What SQLite reports, as errors of ours."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from megacontext.units import KIB

__all__ = ["file_faults", "folder_fault", "sqlite_faults"]

_PRIMARY_CODE = 0xFF
_FULL = {sqlite3.SQLITE_FULL}
_FULL_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE}  # the shared-memory file cannot grow
_NOT_WRITTEN = {  # the last one is what its full-text index makes of any of them
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR,
}
_WRITE_VERSION_AT, _WRITE_AHEAD_LOG = 18, 2  # of the file's header
_PROBE_BYTES = 64 * KIB
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


@contextmanager
def sqlite_faults(name: str, *, written: str = "") -> Iterator[None]:
    """Translate what SQLite raises in the block; ``name`` is the catalog's file, ``written`` the one that is written,
    if it is another."""
    try:
        yield
    except sqlite3.Error as error:
        raise _fault(error, name, written or name) from error
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
        if error.errno in StorageFullError.codes:
            raise StorageFullError.of(error.errno, f"writing {name}") from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise MemoryReadOnlyError(
                f"{name} cannot be written ({error.strerror}); make its folder writable"
            ) from error
        if error.errno == errno.EISDIR:
            raise StorageError(f"{name} is a folder; remove it") from error
        if error.errno == errno.ENOENT:
            raise MemoryNotFoundError(f"there is no folder for {name}; make it first") from error
        raise StorageError(f"{name} failed: {error.strerror}") from error


def _fault(error: sqlite3.Error, name: str, written: str) -> MegaContextError:
    extended = getattr(error, "sqlite_errorcode", None)
    code = extended & _PRIMARY_CODE if extended is not None else None
    if code in _FULL or extended in _FULL_EXTENDED:
        return StorageFullError.of(errno.ENOSPC, f"writing {written}")
    if extended in _NOT_WRITTEN and (limit := _limit_reached(Path(written))):
        return StorageFullError.of(limit, f"writing {written}")
    if in_the_way := folder_fault(Path(written)):
        return in_the_way
    if code == sqlite3.SQLITE_READONLY and _forbids_writing(Path(name)):
        return CorruptionError(f"{name} says of itself that nobody may write it; run 'megacontext check --repair'")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return MemoryReadOnlyError(f"{name} cannot be written ({error}); make the memory's folder writable")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StorageError(f"{name} cannot be opened ({error}); change the permissions of the memory's folder")
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


def folder_fault(path: Path) -> StorageError | None:
    """What to say where a folder stands in the place of a database or of a file that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        if (file := path.with_name(f"{path.name}{suffix}")).is_dir():
            return StorageError(f"{file} is a folder, where SQLite keeps a file; remove it")
    return None


def _forbids_writing(path: Path) -> bool:
    """Whether the header asks for a newer SQLite to write the file than there is, as only a damaged one does."""
    try:
        with path.open("rb") as file:
            return file.read(_WRITE_VERSION_AT + 1)[-1] > _WRITE_AHEAD_LOG
    except (OSError, IndexError):
        return False


def _limit_reached(path: Path) -> int:
    """Which of ``StorageFullError.codes`` keeps the files of a database from growing, 0 if none does.

    SQLite tells a full disk from other troubles, but not a quota or a limit on file sizes; so a write of our own asks,
    behind the end of its longest file.
    """
    try:
        longest = max((file.stat().st_size for file in path.parent.glob(f"{path.name}*")), default=0)
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.seek(longest)
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        return error.errno if error.errno in StorageFullError.codes else 0
    return 0
