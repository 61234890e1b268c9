"""Making the file of a new catalog, whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from megacontext.catalog import schema
from megacontext.catalog.connections import connect
from megacontext.catalog.faults import file_faults, sqlite_faults
from megacontext.catalog.rows import Progress, info_row
from megacontext.catalog.statements import insert_sql
from megacontext.catalog.upgrades import empty_database
from megacontext.errors import MemoryExistsError, MemoryNotFoundError, StorageError
from megacontext.ports.catalog import MemoryInfo

__all__ = ["create_database", "is_file", "new_database", "no_memory", "sync_folder"]

Rows = Mapping[Table, Sequence[tuple[Any, ...]]]


def create_database(path: Path, info: MemoryInfo) -> None:
    """Made under another name, synced, renamed; a crash leaves nothing that could be opened."""
    if path.exists():
        raise MemoryExistsError(f"there is a memory at {path.parent} already; open it, or choose another place")
    with file_faults(str(path)), sqlite_faults(str(path)):
        rows = {schema.memory: [info_row(info)], schema.progress: [Progress().row()]}
        new_database(path, rows).rename(path)
        sync_folder(path.parent)


def is_file(path: Path) -> bool:
    """Whether there is such a file; StorageError where looking is not permitted."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError(f"{path} is too long a name for this file system; use a shorter one") from error
        raise StorageError(
            f"{path} cannot be looked up ({error.strerror}); change the permissions of the folders above it"
        ) from error


def no_memory(folder: Path) -> MemoryNotFoundError:
    """What to say where a catalog was expected: how to make a memory there, or beside what is there."""
    if not folder.exists() or _is_empty(folder):
        return MemoryNotFoundError(
            f"there is no memory at {folder}; create one with `megacontext init {shlex.quote(str(folder))}`"
        )
    named = folder if folder.name not in {"", ".."} else folder.resolve()
    stem = named.stem or "notes"
    names = itertools.chain([f"{stem}.mc"], (f"{stem}-{number}.mc" for number in itertools.count(2)))
    free = next(place for name in names if not (place := named.parent / name).exists())
    return MemoryNotFoundError(
        f"there is no memory at {folder}, but something else; name the folder of a memory, "
        f"or create a new one with `megacontext init {shlex.quote(str(free))}`"
    )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK) and not any(folder.iterdir())


def new_database(path: Path, rows: Rows) -> Path:
    """A complete, synced database beside ``path``, to be renamed to it."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(empty_database())
    connection = connect(unfinished, mode="rw")
    try:
        connection.execute("BEGIN IMMEDIATE")
        for table, table_rows in rows.items():
            connection.executemany(insert_sql(table), table_rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    return unfinished


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
