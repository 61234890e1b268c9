"""Finding damage in a catalog: a flipped byte anywhere that matters.

Five looks, because each sees what the others cannot: SQLite's own structure, the schema, every row's checksum and
what rows say about each other, the word index against its running checksum, and the journal against the rows.
A look that fails altogether is a finding too, and the others go on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from megacontext.catalog import schema
from megacontext.catalog.index_check import check_index
from megacontext.catalog.journal import JOURNAL_FILE, JOURNALED, JournalContents, key_of, read_journal
from megacontext.catalog.queries import read_progress
from megacontext.catalog.rows import CATALOG_FILE, checked, checked_blob
from megacontext.catalog.statements import select_sql
from megacontext.catalog.upgrades import empty_database
from megacontext.errors import CorruptionError, MegaContextError
from megacontext.ports.catalog import Damage, MemoryInfo

__all__ = ["broken_file", "check_catalog"]

_MAX_MESSAGES = 20
_HEADER_BYTES = 100
_MAX_LEVEL = 32
_BLOB_TABLES = (schema.tail, schema.gists)
_KEYED_TABLES = (schema.segments, schema.gists)
_JOURNAL, _CATALOG, _TOKENS = "journal", "catalog", "tokens"
_REPAIRABLE = {
    **{table.name: _JOURNAL for table in JOURNALED},
    schema.gists.name: _TOKENS,
    schema.passages.name: _TOKENS,
}

Row = tuple[Any, ...]
Look = Callable[[], Iterator[Damage]]


def check_catalog(connection: sqlite3.Connection, path: Path, info: MemoryInfo) -> Iterator[Damage]:
    """Everything that is wrong, within one read transaction."""
    journal = read_journal(path.with_name(JOURNAL_FILE))  # before the first read: it may not know more than the rows
    looks: list[Look] = [
        lambda: _check_header(path),
        lambda: _check_structure(connection),
        lambda: _check_schema(connection),
        *(lambda table=table: _check_rows(connection, table, info) for table in schema.metadata.sorted_tables),
        lambda: _check_counts(connection),
        lambda: check_index(connection),
        lambda: _check_journal(connection, journal),
    ]
    is_intact = is_whole = True
    for look in looks:
        for damage in _found(look):
            is_intact &= damage.repairable == _TOKENS
            is_whole &= damage.repairable != _JOURNAL
            has_copy = {_JOURNAL: not journal.problem, _CATALOG: is_whole}.get(damage.repairable, True)
            yield damage if has_copy else replace(damage, repairable="")
    if is_intact and journal.num_commits == read_progress(connection).num_commits:
        yield from _compare_journal(connection, journal)


def broken_file(error: CorruptionError, path: Path) -> Damage:
    """The finding for a file that cannot even be opened."""
    journal = read_journal(path.with_name(JOURNAL_FILE))
    problem = str(error).partition(";")[0]
    if journal.problem:
        problem = f"{problem}; so is its second copy: {JOURNAL_FILE} {journal.problem}; restore a backup"
    return _damage(CATALOG_FILE, problem, "" if journal.problem else _JOURNAL, 0, _journal_tokens(journal))


def _found(look: Look) -> Iterator[Damage]:
    try:
        yield from look()
    except (sqlite3.Error, MegaContextError, ValueError, TypeError, OverflowError) as error:
        yield _damage(CATALOG_FILE, f"cannot be read ({str(error).partition(';')[0]})", _JOURNAL)


def _damage(name: str, problem: str, repairable: str, start: int = 0, stop: int = 0) -> Damage:
    return Damage(object_name=name, token_start=start, token_stop=stop, problem=problem, repairable=repairable)


def _check_header(path: Path) -> Iterator[Damage]:
    """Fields of the file's header that SQLite tolerates in any state and that change what it does."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    expected = empty_database()[:_HEADER_BYTES]
    fields = {
        "magic": slice(0, 18),
        "payload fractions": slice(20, 24),
        "format": slice(44, 48),
        "encoding": slice(52, 60),
    }
    for name, place in fields.items():
        if header[place] != expected[place]:
            yield _damage(CATALOG_FILE, f"{name} in the header is not as it was written", _JOURNAL)
    if header[18:20] != b"\x02\x02":
        yield _damage(CATALOG_FILE, "header does not say write-ahead log", _JOURNAL)


def _check_structure(connection: sqlite3.Connection) -> Iterator[Damage]:
    for (message,) in connection.execute(f"PRAGMA integrity_check({_MAX_MESSAGES})"):
        if message != "ok":
            yield _damage(CATALOG_FILE, message.replace("\n", " "), _JOURNAL)


def _check_schema(connection: sqlite3.Connection) -> Iterator[Damage]:
    statement = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    fresh = sqlite3.connect(":memory:")
    try:
        fresh.deserialize(empty_database())
        expected = fresh.execute(statement).fetchall()
    finally:
        fresh.close()
    if connection.execute(statement).fetchall() != expected:
        yield _damage(CATALOG_FILE, "the schema is not as it was made", _JOURNAL)


def _check_rows(connection: sqlite3.Connection, table: Table, info: MemoryInfo) -> Iterator[Damage]:
    """Checksums; a damaged row concerns the tokens that its key names, or else those between its intact neighbours."""
    check = checked_blob if table in _BLOB_TABLES else checked
    last_stop, problem = 0, ""
    for row in connection.execute(select_sql(table)):
        try:
            check(table.name, row)
        except (CorruptionError, ValueError, TypeError) as error:
            this_problem = str(error).partition(": ")[2].partition(";")[0]
            if table in _KEYED_TABLES:
                start, stop = _tokens_of_key(table, row, info)
                yield _damage(_object(table), this_problem, _REPAIRABLE[table.name], start, stop)
            else:
                problem = problem or this_problem
            continue
        start, stop = _tokens_of_row(table, row)
        if problem:
            yield _damage(_object(table), problem, _REPAIRABLE[table.name], last_stop, max(start, last_stop))
            problem = ""
        last_stop = stop
    if problem:
        num_tokens = max(last_stop, _num_tokens(connection))
        yield _damage(_object(table), problem, _REPAIRABLE[table.name], last_stop, num_tokens)


def _tokens_of_key(table: Table, row: Row, info: MemoryInfo) -> tuple[int, int]:
    """The tokens of a gist's node or of a segment; keys may be damaged too."""
    if table is schema.segments:
        return row[0] * info.segment_tokens, (row[0] + 1) * info.segment_tokens
    level, node = row[:2]
    if type(level) is not int or type(node) is not int:
        return 0, 0
    width = info.block_tokens**level if 0 < level < _MAX_LEVEL else 0
    return node * width, (node + 1) * width


def _object(table: Table) -> str:
    return f"{CATALOG_FILE}: {table.name}"


def _tokens_of_row(table: Table, row: Row) -> tuple[int, int]:
    """The tokens that a row is about, where rows are about tokens."""
    columns = table.c.keys()
    if table is schema.tail:
        return row[0], row[0] + row[1]
    if "token_stop" in columns:
        return row[columns.index("token_start")], row[columns.index("token_stop")]
    return 0, 0


def _num_tokens(connection: sqlite3.Connection) -> int:
    try:
        return read_progress(connection).num_tokens
    except CorruptionError:
        return 0


def _check_counts(connection: sqlite3.Connection) -> Iterator[Damage]:
    """What the progress row says against the rows that are there."""
    progress = read_progress(connection)
    for table, expected in (
        (schema.sources, progress.num_sources),
        (schema.extents, progress.num_extents),
        (schema.passages, progress.num_passages),
    ):
        count = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]  # noqa: S608 - our own names
        if count != expected:
            problem = f"has {count} rows instead of {expected}"
            yield _damage(_object(table), problem, _REPAIRABLE[table.name], 0, progress.num_tokens)
    reached = progress.sealed_tokens
    for start, count in connection.execute("SELECT start, num_tokens FROM tail ORDER BY start"):
        if start != reached:
            problem = "has a gap" if start > reached else "overlaps"
            yield _damage(_object(schema.tail), problem, _JOURNAL, min(start, reached), max(start, reached))
        reached = max(reached, start + count)
    if reached != progress.num_tokens:
        start, stop = sorted((reached, progress.num_tokens))
        yield _damage(_object(schema.tail), "does not reach the end of the history", _JOURNAL, start, stop)


def _check_journal(connection: sqlite3.Connection, journal: JournalContents) -> Iterator[Damage]:
    """A journal that lags behind is what a crash or a concurrent writer leaves; one that is ahead shows a loss."""
    num_commits = read_progress(connection).num_commits
    if journal.problem and num_commits:
        yield _damage(JOURNAL_FILE, journal.problem, _CATALOG)
    elif journal.num_commits > num_commits:
        problem = f"commits {num_commits + 1} to {journal.num_commits} are lost"
        yield _damage(CATALOG_FILE, problem, _JOURNAL, 0, _journal_tokens(journal))


def _compare_journal(connection: sqlite3.Connection, journal: JournalContents) -> Iterator[Damage]:
    """Both copies must agree, row by row."""
    for table in JOURNALED:
        rows = {key_of(table.name, row): row for row in connection.execute(select_sql(table))}
        if rows != journal.tables[table.name]:
            yield _damage(JOURNAL_FILE, f"{table.name} differ from those of the catalog", _CATALOG)


def _journal_tokens(journal: JournalContents) -> int:
    row = journal.tables["progress"].get((1,))
    return int(row[2]) if row is not None else 0
