"""What is read from the catalog, as functions over a connection: used by readers, the writer and the check."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Table, bindparam, func, literal_column, select

from megacontext.catalog import schema
from megacontext.catalog.rows import (
    Progress,
    checked,
    checked_blob,
    extent_of,
    gists_of,
    info_of,
    segment_of,
    source_of,
    tokens_of,
)
from megacontext.catalog.statements import compiled, select_sql
from megacontext.errors import CorruptionError
from megacontext.ports.catalog import ERASED, Extent, MemoryInfo, Segment, Source
from megacontext.ports.gister import GistBatch

__all__ = [
    "count_erased",
    "extent_by_id",
    "read_extents",
    "read_gists",
    "read_info",
    "read_progress",
    "read_sealed_nodes",
    "read_segments",
    "read_sources",
    "read_tail",
    "read_tail_rows",
    "source_by_id",
]

Row = tuple[Any, ...]


@cache
def _overlapping(table: Table, column: str) -> str:
    """Rows from the last one that begins at or before ``:start`` on, up to ``:stop``; rows do not overlap."""
    begins = table.c[column]
    other = table.alias("earlier").c[column]
    first = select(func.max(other)).where(other <= bindparam("start")).scalar_subquery()
    wanted = begins >= func.coalesce(first, literal_column("0"))
    return compiled(
        select(table).where(wanted, begins < bindparam("stop")).order_by(begins, *table.primary_key.columns)
    )


@cache
def _sources_of_uri() -> str:
    table = schema.sources
    return compiled(select(table).where(table.c.uri == bindparam("uri")).order_by(table.c.source_id))


@cache
def _newest_source_of_uri() -> str:
    table = schema.sources
    is_of_uri = table.c.uri == bindparam("uri")
    newest = select(func.max(table.c.version)).where(is_of_uri).scalar_subquery()
    return compiled(select(table).where(is_of_uri, table.c.version == newest))


@cache
def _source_by_id_sql() -> str:
    return compiled(select(schema.sources).where(schema.sources.c.source_id == bindparam("source_id")))


@cache
def _num_erased_sql() -> str:
    uri = schema.sources.c.uri
    return compiled(select(func.count()).where(uri >= bindparam("first"), uri < bindparam("after")))


@cache
def _labels_of_source() -> str:
    table = schema.labels
    return compiled(select(table).where(table.c.source_id == bindparam("source_id")).order_by(table.c.key))


@cache
def _extent_by_id_sql() -> str:
    return compiled(select(schema.extents).where(schema.extents.c.extent_id == bindparam("extent_id")))


@cache
def _gist_range() -> str:
    table = schema.gists
    wanted = (table.c.level == bindparam("level"), table.c.node >= bindparam("start"), table.c.node < bindparam("stop"))
    return compiled(select(table).where(*wanted).order_by(table.c.node))


def _one(connection: sqlite3.Connection, table: Table) -> Row:
    rows: list[Row] = connection.execute(select_sql(table)).fetchall()
    if len(rows) != 1:
        raise CorruptionError(
            f"the catalog has {len(rows)} rows in {table.name}, not 1; run 'megacontext check --repair'"
        )
    return rows[0]


def read_info(connection: sqlite3.Connection) -> MemoryInfo:
    return info_of(_one(connection, schema.memory))


def read_progress(connection: sqlite3.Connection) -> Progress:
    values = checked("progress", _one(connection, schema.progress))
    return Progress(**dict(zip(schema.progress.c.keys(), values, strict=False)))


def read_sealed_nodes(connection: sqlite3.Connection) -> dict[int, int]:
    rows = connection.execute(select_sql(schema.sealed_nodes))
    return dict(checked("sealed_nodes", row) for row in rows)


def read_tail_rows(connection: sqlite3.Connection, start: int, stop: int) -> list[tuple[int, int, bytes]]:
    """Verified rows ``(start, num_tokens, tokens)`` that overlap a range."""
    rows = connection.execute(_overlapping(schema.tail, "start"), {"start": start, "stop": stop})
    verified = [checked_blob("tail", row) for row in rows]
    return [(first, count, tokens) for first, count, tokens in verified if first + count > start]


def read_tail(connection: sqlite3.Connection, progress: Progress, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """The unsealed tokens within [start, stop); CorruptionError if a row that should be there is not."""
    start, stop = max(start, progress.sealed_tokens), min(stop, progress.num_tokens)
    if start >= stop:
        return np.empty(0, dtype=np.uint32)
    rows = read_tail_rows(connection, start, stop)
    reached = start
    for first, count, _ in rows:
        if first > reached:
            break
        reached = first + count
    if reached < stop:
        raise CorruptionError(
            f"the catalog lacks tokens [{reached}, {stop}) of the tail; run 'megacontext check --repair'"
        )
    tokens = tokens_of([blob for _, _, blob in rows])
    return tokens[start - rows[0][0] : stop - rows[0][0]]


def read_gists(
    connection: sqlite3.Connection, info: MemoryInfo, level: int, start: int, stop: int
) -> list[tuple[int, GistBatch]]:
    rows = connection.execute(_gist_range(), {"level": level, "start": start, "stop": stop}).fetchall()
    runs: list[tuple[int, GistBatch]] = []
    first = 0
    for index, row in enumerate(rows):
        checked_blob("gists", row)
        if index + 1 == len(rows) or rows[index + 1][1] != row[1] + 1:
            runs.append((rows[first][1], gists_of([run_row[2] for run_row in rows[first : index + 1]], info)))
            first = index + 1
    return runs


def read_sources(connection: sqlite3.Connection, *, uri: str | None = None) -> list[Source]:
    if uri is None:
        return _with_labels(
            connection.execute(select_sql(schema.sources)), connection.execute(select_sql(schema.labels))
        )
    rows = connection.execute(_sources_of_uri(), {"uri": uri}).fetchall()
    return [_labelled(connection, row) for row in rows]


def newest_source_of(connection: sqlite3.Connection, uri: str) -> Source | None:
    row = connection.execute(_newest_source_of_uri(), {"uri": uri}).fetchone()
    return _labelled(connection, row) if row is not None else None


def count_erased(connection: sqlite3.Connection) -> int:
    bounds = {"first": ERASED, "after": ERASED[:-1] + chr(ord(ERASED[-1]) + 1)}
    number: int = connection.execute(_num_erased_sql(), bounds).fetchone()[0]
    return number


def source_by_id(connection: sqlite3.Connection, source_id: int) -> Source | None:
    row = connection.execute(_source_by_id_sql(), {"source_id": source_id}).fetchone()
    return _labelled(connection, row) if row is not None else None


def _labelled(connection: sqlite3.Connection, row: Row) -> Source:
    labels = connection.execute(_labels_of_source(), {"source_id": row[0]})
    return _with_labels([row], labels)[0]


def _with_labels(source_rows: Iterable[Row], label_rows: Iterable[Row]) -> list[Source]:
    labels: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for row in label_rows:
        source_id, key, value = checked("labels", row)
        labels[source_id][key] = value
    return [source_of(row, labels.get(row[0], {})) for row in source_rows]


def read_extents(connection: sqlite3.Connection, start: int, stop: int) -> list[tuple[Source, Extent]]:
    rows = connection.execute(_overlapping(schema.extents, "token_start"), {"start": start, "stop": stop})
    found = [extent for extent in map(extent_of, rows) if extent.token_stop > start]
    sources: dict[int, Source] = {}
    for extent in found:
        if extent.source_id not in sources:
            source = source_by_id(connection, extent.source_id)
            if source is None:
                raise CorruptionError(f"the catalog lacks source {extent.source_id}; run 'megacontext check --repair'")
            sources[extent.source_id] = source
    return [(sources[extent.source_id], extent) for extent in found]


def extent_by_id(connection: sqlite3.Connection, extent_id: int) -> Extent | None:
    row = connection.execute(_extent_by_id_sql(), {"extent_id": extent_id}).fetchone()
    return extent_of(row) if row is not None else None


def read_segments(connection: sqlite3.Connection) -> list[Segment]:
    return [segment_of(row) for row in connection.execute(select_sql(schema.segments))]
