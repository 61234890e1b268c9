"""A consistent copy of a catalog, also while another process writes to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from megacontext.catalog.connections import connect
from megacontext.catalog.faults import sqlite_faults
from megacontext.catalog.rows import CATALOG_FILE

__all__ = ["copy_catalog"]


def copy_catalog(folder: Path, target_folder: Path) -> Path:
    """Copy the last commit of a memory's catalog into another folder, by SQLite's own backup; the new file.

    Raises: CorruptionError, StorageError, StorageFullError.
    """
    target = target_folder / CATALOG_FILE
    with (
        sqlite_faults(str(folder / CATALOG_FILE)),
        closing(connect(folder / CATALOG_FILE, mode="ro")) as reader,
        closing(sqlite3.connect(target)) as copy,
    ):
        reader.backup(copy)
    return target
