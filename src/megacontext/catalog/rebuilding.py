"""Making a damaged catalog again from its journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from megacontext.catalog import schema
from megacontext.catalog.creation import new_database, sync_folder
from megacontext.catalog.faults import file_faults, sqlite_faults
from megacontext.catalog.journal import JOURNAL_FILE, JOURNALED, Change, read_journal
from megacontext.catalog.rows import CATALOG_FILE, Progress, checked
from megacontext.catalog.statements import select_sql
from megacontext.errors import CorruptionError

__all__ = ["everything", "rebuild_database"]


def everything(connection: sqlite3.Connection) -> Iterator[Change]:
    """All rows that the journal keeps, the progress row last."""
    for table in JOURNALED:
        for row in connection.execute(select_sql(table)):
            yield Change(table.name, row)


def rebuild_database(folder: Path) -> None:
    """Replace the catalog by what its journal says; the word index and waiting gists are left empty.

    The caller is the one writer and has closed its connections; readers of other processes keep the old file until
    they open the memory again. Raises CorruptionError if the journal is damaged too; then nothing is changed.
    """
    path = folder / CATALOG_FILE
    contents = read_journal(folder / JOURNAL_FILE)
    if contents.problem:
        raise CorruptionError(
            f"{path} and its second copy are damaged ({JOURNAL_FILE} {contents.problem}); restore a backup"
        )
    values = checked("progress", contents.tables["progress"][1,])
    progress = Progress(**dict(zip(schema.progress.c.keys(), values, strict=False)))
    progress.num_commits += 1
    progress.indexed_tokens = progress.num_passages = progress.num_terms = progress.index_sum = 0
    contents.apply(Change("progress", progress.row()))
    rows = {table: list(contents.tables[table.name].values()) for table in JOURNALED}
    with file_faults(str(path)), sqlite_faults(str(path)):
        unfinished = new_database(path, rows)
        for suffix in ("-wal", "-shm"):  # of the damaged file; they would be replayed over the new one
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        unfinished.replace(path)
        sync_folder(folder)
