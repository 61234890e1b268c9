"""Making the file of a new catalog, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from megacontext.catalog import schema
from megacontext.catalog.connections import connect
from megacontext.catalog.faults import file_faults, sqlite_faults
from megacontext.catalog.rows import Progress, info_row
from megacontext.catalog.statements import insert_sql
from megacontext.catalog.upgrades import empty_database
from megacontext.errors import MemoryExistsError
from megacontext.ports.catalog import MemoryInfo

__all__ = ["create_database", "sync_folder"]


def create_database(path: Path, info: MemoryInfo) -> None:
    """Made under another name, synced, renamed; a crash leaves nothing that could be opened."""
    if path.exists():
        raise MemoryExistsError(f"there is a memory at {path.parent} already; open it, or choose another place")
    unfinished = path.with_name(f"{path.name}.new")
    with file_faults(str(path)), sqlite_faults(str(path)):
        unfinished.write_bytes(empty_database())
        connection = connect(unfinished, mode="rw")
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(insert_sql(schema.memory), info_row(info))
            connection.execute(insert_sql(schema.progress), Progress().row())
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        unfinished.rename(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
