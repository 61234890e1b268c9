"""Opening a catalog that may be older than we are, damaged, or behind its journal."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from pathlib import Path

from megacontext.catalog import queries
from megacontext.catalog.connections import CatalogConnections
from megacontext.catalog.faults import sqlite_faults
from megacontext.catalog.journal import JOURNAL_FILE, Journal, lost_commits, read_journal
from megacontext.catalog.rows import info_of
from megacontext.catalog.upgrades import require_schema, schema_revision, upgrade_schema
from megacontext.errors import CorruptionError
from megacontext.ports.catalog import MemoryInfo

__all__ = ["journaled_info", "open_connections"]

log = logging.getLogger(__name__)


def open_connections(path: Path, journal: Journal, *, read_only: bool) -> tuple[CatalogConnections, MemoryInfo]:
    """Open the file, bring the schema up to date and read what the memory is made of.

    Raises: SchemaVersionError, CorruptionError.
    """
    name = str(path)
    with sqlite_faults(name):
        opened = CatalogConnections(path, read_only=read_only)
    try:
        with opened.reading(transaction=False) as connection:
            revision = schema_revision(connection, name)
            if require_schema(revision, name, may_upgrade=not read_only):
                upgrade_schema(opened.writer())
            _warn_of_losses(connection, path, journal)
            try:
                info = queries.read_info(connection)
            except CorruptionError as error:
                info = journaled_info(path, error)
    except BaseException:
        opened.close()
        raise
    return opened, info


def journaled_info(path: Path, error: CorruptionError) -> MemoryInfo:
    """What the memory is made of, from the second copy; the error itself if that is gone too."""
    row = read_journal(path.with_name(JOURNAL_FILE)).tables["memory"].get((1,))
    if row is None:
        raise error
    log.warning("%s; what the memory is made of comes from %s", error, JOURNAL_FILE)
    return info_of(row)


def _warn_of_losses(connection: sqlite3.Connection, path: Path, journal: Journal) -> None:
    journaled = journal.last_commit()  # read first: a writer may commit between the two
    with suppress(CorruptionError):  # a damaged row is reported by whoever needs it, and by check
        if journaled > queries.read_progress(connection).num_commits:
            lost = journaled - queries.read_progress(connection).num_commits
            log.warning("%s; until then it is read without them", lost_commits(path, lost))
