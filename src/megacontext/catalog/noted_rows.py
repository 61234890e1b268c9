"""Rows put into the catalog, each noted for the journal, because it cannot be computed again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter

from sqlalchemy import Table

from megacontext.catalog.journal import Change
from megacontext.catalog.statements import delete_sql, insert_sql, replace_sql, update_sql

__all__ = ["NotedRows"]

Row = tuple[object, ...]


@cache
def _values_of(table: Table, names: tuple[str, ...]) -> Callable[[Row], Row]:
    """What ``update_sql`` wants of a row."""
    columns = table.c.keys()
    return itemgetter(*(columns.index(name) for name in (*names, "crc")), 0)


class NotedRows:
    """Writes rows within one transaction; ``changes`` is what the journal is told when it is committed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changes: list[Change] = []

    def insert(self, table: Table, row: Row) -> None:
        self._connection.execute(insert_sql(table), row)
        self.changes.append(Change(table.name, row))

    def insert_large(self, table: Table, row: Row) -> None:
        """The same, but only the row's key is noted; whoever wants the rest reads it again."""
        self._connection.execute(insert_sql(table), row)
        self.changes.append(Change(table.name, row[:1]))

    def update(self, table: Table, row: Row, *names: str) -> None:
        """Change named columns and the crc in place: to replace a row, or to set a column of an index, costs more."""
        self._connection.execute(update_sql(table, names), _values_of(table, names)(row))
        self.changes.append(Change(table.name, row))

    def replace(self, table: Table, rows: Sequence[Row]) -> None:
        self._connection.executemany(replace_sql(table), rows)
        self.changes.extend(Change(table.name, row) for row in rows)

    def drop(self, table: Table, start: int, stop: int) -> None:
        """Drop the rows whose (first) key lies in [start, stop)."""
        self._connection.execute(delete_sql(table), (start, stop))
        self.changes.append(Change(table.name, None, start, stop))
