"""Rows put into the catalog, each noted for the journal, because it cannot be computed again.

What is noted is bounded, however long a transaction: of many rows, or large ones, only which they are, and whoever
wants them reads them again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

from sqlalchemy import Table

from megacontext.catalog.journal import Change
from megacontext.catalog.statements import between_sql, delete_sql, insert_sql, replace_sql, update_sql

__all__ = ["NotedRows"]

_MANY_CHANGES = 4096  # more than a group of documents makes; a long file goes on for ever

Row = tuple[object, ...]


@dataclass(frozen=True)
class _NewRows:
    """Rows that were inserted one after another, with keys [start, stop)."""

    table: Table
    start: int
    stop: int


@cache
def _values_of(table: Table, names: tuple[str, ...]) -> Callable[[Row], Row]:
    """What ``update_sql`` wants of a row."""
    columns = table.c.keys()
    return itemgetter(*(columns.index(name) for name in (*names, "crc")), 0)


class NotedRows:
    """Writes rows within one transaction; ``changes`` is what the journal is told when it is committed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._noted: list[Change | _NewRows] = []
        self._open: dict[str, int] = {}  # of tables, the place of a note that may still grow: the last

    def changes(self) -> Iterator[Change]:
        """In the order in which they were made; to be taken after the commit."""
        for note in self._noted:
            if isinstance(note, Change):
                yield note
                continue
            for row in self._connection.execute(between_sql(note.table), (note.start, note.stop)):
                yield Change(note.table.name, row)

    def insert(self, table: Table, row: Row, *, is_large: bool = False) -> None:
        self._connection.execute(insert_sql(table), row)
        if is_large or (len(self._noted) >= _MANY_CHANGES and len(table.primary_key) == 1):
            self._note_key(table, row[0])
        else:
            self._noted.append(Change(table.name, row))
            self._open.pop(table.name, None)

    def _note(self, table: Table, note: Change | _NewRows) -> None:
        self._open[table.name] = len(self._noted)
        self._noted.append(note)

    def _note_key(self, table: Table, key: object) -> None:
        assert isinstance(key, int)
        last = self._last(table)
        if isinstance(last, _NewRows) and last.stop == key:
            self._noted[self._open[table.name]] = _NewRows(table, last.start, key + 1)
        else:
            self._note(table, _NewRows(table, key, key + 1))

    def _last(self, table: Table) -> Change | _NewRows | None:
        """The note of a table that may grow."""
        place = self._open.get(table.name)
        return None if place is None else self._noted[place]

    def update(self, table: Table, row: Row, *names: str) -> None:
        """Change named columns and the crc in place: to replace a row, or to set a column of an index, costs more."""
        self._connection.execute(update_sql(table, names), _values_of(table, names)(row))
        self._noted.append(Change(table.name, row))
        self._open.pop(table.name, None)

    def replace(self, table: Table, rows: Sequence[Row]) -> None:
        self._connection.executemany(replace_sql(table), rows)
        self._noted.extend(Change(table.name, row) for row in rows)
        self._open.pop(table.name, None)

    def drop(self, table: Table, start: int, stop: int) -> None:
        """Drop the rows whose (first) key lies in [start, stop)."""
        self._connection.execute(delete_sql(table), (start, stop))
        last, change = self._last(table), Change(table.name, None, start, stop)
        if isinstance(last, Change) and last.row is None and start <= last.start and last.stop <= stop:
            self._noted[self._open[table.name]] = change  # as every segment of a long source does with the tail
        else:
            self._note(table, change)
