"""Whole-file work on a catalog: a consistent copy beside a writer, and a rewrite without what was deleted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from megacontext.catalog import queries
from megacontext.catalog.connections import CatalogConnections, connect
from megacontext.catalog.creation import sync_folder
from megacontext.catalog.faults import file_faults, sqlite_faults
from megacontext.catalog.journal import JOURNAL_FILE, Journal, lost_commits
from megacontext.catalog.rebuilding import everything
from megacontext.catalog.rows import CATALOG_FILE
from megacontext.errors import StorageError

__all__ = [
    "COPIED_FILES",
    "compact_database",
    "copy_catalog",
    "has_traces",
    "note_no_traces",
    "note_traces",
    "refuse_lost_commits",
]

TRACES_FILE = "catalog.traces"

COPIED_FILES = (CATALOG_FILE, JOURNAL_FILE)


def copy_catalog(folder: Path, target_folder: Path) -> None:
    """Copy the last commit of a memory's catalog into another folder, by SQLite's own backup, with a fresh journal.

    Raises: CorruptionError (the last commits are lost, which only the journal still has), StorageError,
    StorageFullError.
    """
    source, target = folder / CATALOG_FILE, target_folder / CATALOG_FILE
    journaled = Journal(folder / JOURNAL_FILE).last_commit()  # read first: a writer may commit meanwhile
    may_hold_traces = has_traces(source)  # likewise: that writer removes them
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
        if may_hold_traces:
            copy.execute("VACUUM")


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

    The caller is the one writer and has closed its connections. Raises StorageError; also where another process reads
    for so long that the log cannot be emptied.
    """
    with sqlite_faults(str(path)), closing(connect(path, mode="rw")) as connection:
        connection.execute("VACUUM")
        (is_busy, *_), *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if is_busy:
        raise StorageError(f"{path} is being read by another process, which keeps its log; end that, then change it")


def note_traces(path: Path) -> None:
    """Before what is to be forgotten is deleted: free pages and journal may hold it until `note_no_traces`."""
    with file_faults(str(path)):
        path.with_name(TRACES_FILE).touch()
        sync_folder(path.parent)


def note_no_traces(path: Path) -> None:
    """Nothing of what was deleted remains in the files of this catalog."""
    with file_faults(str(path)):
        path.with_name(TRACES_FILE).unlink(missing_ok=True)
        sync_folder(path.parent)


def has_traces(path: Path) -> bool:
    """Whether the files of this catalog may hold what was to be forgotten: a crash came before the last step."""
    return path.with_name(TRACES_FILE).exists()
