"""Whole-file work on a catalog: a consistent copy beside a writer, and a rewrite without what was deleted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from megacontext.catalog import queries
from megacontext.catalog.connections import CatalogConnections, connect
from megacontext.catalog.faults import sqlite_faults
from megacontext.catalog.journal import JOURNAL_FILE, Journal, lost_commits
from megacontext.catalog.rebuilding import everything
from megacontext.catalog.rows import CATALOG_FILE

__all__ = ["COPIED_FILES", "compact_database", "copy_catalog", "refuse_lost_commits"]


COPIED_FILES = (CATALOG_FILE, JOURNAL_FILE)


def copy_catalog(folder: Path, target_folder: Path) -> None:
    """Copy the last commit of a memory's catalog into another folder, by SQLite's own backup, with a fresh journal.

    Raises: CorruptionError (the last commits are lost, which only the journal still has), StorageError,
    StorageFullError.
    """
    source, target = folder / CATALOG_FILE, target_folder / CATALOG_FILE
    journaled = Journal(folder / JOURNAL_FILE).last_commit()  # read first: a writer may commit meanwhile
    with (
        closing(CatalogConnections(source, read_only=True)) as connections,
        sqlite_faults(str(source), written=str(target)),
        connections.reading(transaction=False) as reader,
        closing(sqlite3.connect(target)) as copy,
    ):
        reader.backup(copy)
        num_commits = queries.read_progress(copy).num_commits
        if journaled > num_commits:
            raise lost_commits(source, journaled - num_commits)
        Journal(target_folder / JOURNAL_FILE).record(num_commits, everything(copy), everything(copy))


def refuse_lost_commits(folder: Path) -> None:
    """CorruptionError if only the journal still has the last commits of a memory."""
    source = folder / CATALOG_FILE
    journaled = Journal(folder / JOURNAL_FILE).last_commit()  # read first: a writer may commit meanwhile
    with (
        closing(CatalogConnections(source, read_only=True)) as connections,
        sqlite_faults(str(source)),
        connections.reading(transaction=False) as reader,
    ):
        num_commits = queries.read_progress(reader).num_commits
        if journaled > num_commits:
            raise lost_commits(source, journaled - num_commits)


def compact_database(path: Path) -> None:
    """Rewrite a database and empty its log, so that nothing of what was deleted remains in free pages.

    The caller is the one writer and has closed its connections.
    """
    with sqlite_faults(str(path)), closing(connect(path, mode="rw")) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
