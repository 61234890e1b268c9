"""Making a damaged catalog again from its journal, and from what of it is intact."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from megacontext.catalog import schema
from megacontext.catalog.connections import CatalogConnections
from megacontext.catalog.creation import new_database, sync_folder
from megacontext.catalog.faults import file_faults, sqlite_faults
from megacontext.catalog.journal import JOURNAL_FILE, JOURNALED, Change, JournalContents, key_of, read_journal
from megacontext.catalog.rows import CATALOG_FILE, Progress, checked, checked_blob, info_of
from megacontext.catalog.statements import select_sql
from megacontext.errors import CorruptionError
from megacontext.ports.catalog import ERASED

__all__ = ["everything", "intact", "rebuild_database"]

Row = tuple[Any, ...]
Rows = dict[Row, Row]

_TILING = {schema.sources.name: "num_sources", schema.extents.name: "num_extents"}  # and who counts them
_log = logging.getLogger(__name__)


def everything(connection: sqlite3.Connection) -> Iterator[Change]:
    """All rows that the journal keeps, the progress row last."""
    for table in JOURNALED:
        for row in connection.execute(select_sql(table)):
            yield Change(table.name, row)


def intact(connection: sqlite3.Connection) -> Iterator[Change]:
    """The same, for a journal that is written anew: CorruptionError at a row that fails its checksum, or the damaged
    copy would take the place of the other one."""
    for change in everything(connection):
        assert change.row is not None
        if not _is_intact(change.table, change.row):
            name = f"{CATALOG_FILE}: row {change.row[0]} of {change.table}"
            raise CorruptionError(f"{name} fails its checksum; run 'megacontext check --repair'")
        yield change


def rebuild_database(folder: Path, *, has_erased: bool = False) -> None:
    """Replace the catalog by what its journal says; the word index is left empty.

    A journal may lag behind. Where the catalog still says that it does, what is intact of the catalog goes first, and
    the journal gives the rest, if that is whole then. has_erased: an erasure may be among what the journal lacks.
    Gists that wait stay where both are of the same commit.

    The caller is the one writer and has closed its connections; readers of other processes keep the old file until
    they open the memory again. Raises CorruptionError if the journal is damaged too, or lacks what the catalog has
    lost of its last commits; then nothing is changed.
    """
    path = folder / CATALOG_FILE
    contents = read_journal(folder / JOURNAL_FILE)
    if contents.problem:
        raise CorruptionError(
            f"{path} and its second copy are damaged ({JOURNAL_FILE} {contents.problem}); restore a backup"
        )
    remains = _remains(path)
    behind = remains.num_commits - contents.num_commits
    if behind > 0:
        if not _overlay(contents, remains, has_erased=has_erased):
            raise CorruptionError(
                f"{path} is damaged, and {JOURNAL_FILE} lacks its last {behind} commits; restore a backup, or move "
                f"{CATALOG_FILE} away and repair again to go on without them"
            )
        _log.warning("%s is made again: %s lacked its last %d commits", path, JOURNAL_FILE, behind)
    progress = _progress_of(contents)
    progress.num_commits += 1
    progress.indexed_tokens = progress.num_passages = progress.num_terms = progress.index_sum = 0
    contents.apply(Change("progress", progress.row()))
    rows = {table: list(contents.tables[table.name].values()) for table in JOURNALED}
    if behind >= 0:
        rows[schema.gists] = _waiting_gists(contents, remains.tables[schema.gists.name])
    with file_faults(str(path)), sqlite_faults(str(path)):
        unfinished = new_database(path, rows)
        for suffix in ("-wal", "-shm"):  # of the damaged file; they would be replayed over the new one
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        unfinished.replace(path)
        sync_folder(folder)


@dataclass
class _Remains:
    """Intact rows of a damaged catalog by table and key. num_labels: with those that are damaged, -1 if nobody can
    say."""

    tables: dict[str, Rows] = field(default_factory=lambda: {t.name: {} for t in (*JOURNALED, schema.gists)})
    num_labels: int = -1

    @property
    def num_commits(self) -> int:
        """-1 if not even that is intact."""
        return int(self.tables["progress"].get((1,), (1, -1))[1])


def _remains(path: Path) -> _Remains:
    remains = _Remains()
    if not path.is_file():
        return remains
    with (
        suppress(CorruptionError),
        sqlite_faults(str(path)),
        closing(CatalogConnections(path, read_only=True)) as connections,
        connections.reading() as connection,
    ):
        for table in (*JOURNALED, schema.gists):
            for statement in (select_sql(table), _backwards(table)):  # a page that cannot be read ends either
                with suppress(sqlite3.Error, UnicodeDecodeError):
                    for row in connection.execute(statement):
                        if _is_intact(table.name, row):
                            remains.tables[table.name][_key(table, row)] = row
        with suppress(sqlite3.Error):
            (remains.num_labels,) = connection.execute("SELECT count(*) FROM labels").fetchone()
    return remains


def _backwards(table: Table) -> str:
    return select_sql(table) + " DESC" if len(table.primary_key) == 1 else select_sql(table)


def _key(table: Table, row: Row) -> Row:
    return row[:2] if table is schema.gists else key_of(table.name, row)


def _is_intact(table: str, row: Row) -> bool:
    check = checked_blob if table in (schema.tail.name, schema.gists.name) else checked
    try:
        check(table, row)
    except (CorruptionError, ValueError, TypeError, OverflowError):  # damage may turn a value into another type
        return False
    return True


def _overlay(contents: JournalContents, remains: _Remains, *, has_erased: bool) -> bool:
    """Bring what a journal says to where a catalog was, whose progress it takes; whether all is there then."""
    of_journal = contents.tables
    contents.tables = merged = {table.name: of_journal[table.name] | remains.tables[table.name] for table in JOURNALED}
    progress = _progress_of(contents)
    for name, counter in _TILING.items():
        wanted = [(number,) for number in range(1, getattr(progress, counter) + 1)]
        if any(key not in merged[name] for key in wanted):
            return False
        merged[name] = {key: merged[name][key] for key in wanted}
        is_mixed = any(key not in remains.tables[name] for key in wanted)
        if is_mixed and (has_erased or not _tiles(merged[name], schema.metadata.tables[name], progress.num_tokens)):
            return False
    erased = {row[0] for row in merged["sources"].values() if row[1].startswith(ERASED)}
    merged["labels"] = {key: row for key, row in merged["labels"].items() if key[0] not in erased}
    if not 0 <= remains.num_labels <= len(merged["labels"]):
        return False
    if has_erased and len(remains.tables["labels"]) < len(merged["labels"]):
        return False
    num_segments = progress.sealed_tokens // info_of(merged["memory"][1,]).segment_tokens
    if any((number,) not in merged["segments"] for number in range(num_segments)):
        return False
    tail = _tail(remains.tables["tail"], of_journal["tail"], progress)
    if tail is None:
        return False
    merged["tail"] = tail
    return True


def _progress_of(contents: JournalContents) -> Progress:
    values = checked("progress", contents.tables["progress"][1,])
    return Progress(**dict(zip(schema.progress.c.keys(), values, strict=False)))


def _tiles(rows: Mapping[Row, Row], table: Table, num_tokens: int) -> bool:
    """Whether rows in order cover the history; one that is older than its neighbours does not reach them."""
    columns = table.c.keys()
    first, last = columns.index("token_start"), columns.index("token_stop")
    reached = 0
    for row in rows.values():
        if row[first] != reached:
            return False
        reached = row[last]
    return bool(reached == num_tokens)


def _tail(rows: Rows, older: Rows, progress: Progress) -> Rows | None:
    """Rows from what is sealed to the end, older ones where there is no other; None if there is a gap."""
    tail: Rows = {}
    reached = progress.sealed_tokens
    while reached < progress.num_tokens:
        row = rows.get((reached,)) or older.get((reached,))
        if row is None or not 0 < row[1] <= progress.num_tokens - reached:
            return None
        tail[reached,] = row
        reached += row[1]
    return tail


def _waiting_gists(contents: JournalContents, rows: Rows) -> list[Row]:
    """Of complete nodes that are in no shard."""
    info, num_tokens = info_of(contents.tables["memory"][1,]), _progress_of(contents).num_tokens
    sealed = {level: num_nodes for level, num_nodes, _ in contents.tables["sealed_nodes"].values()}
    return [
        rows[level, node]
        for level, node in sorted(rows)
        if sealed.get(level, 0) <= node < num_tokens // info.block_tokens**level
    ]
