"""SQLAlchemy statements, compiled once to the text that the driver keeps prepared.

An append of 32 tokens costs one sync and little else; going through ``Connection.execute`` for each of its
statements would cost as much as the rest together. So statements are built with SQLAlchemy and run on the driver.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Column, Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

__all__ = ["between_sql", "compiled", "delete_sql", "insert_sql", "replace_sql", "select_sql", "update_sql"]


def compiled(statement: ClauseElement) -> str:
    """The text of a statement for SQLite, parameters as ``:name``."""
    dialect = sqlite.dialect(paramstyle="named")
    return str(statement.compile(dialect=dialect))


@cache
def insert_sql(table: Table) -> str:
    """Insert one row of all columns; parameters by position in column order."""
    dialect = sqlite.dialect(paramstyle="qmark")
    return str(insert(table).compile(dialect=dialect))


@cache
def replace_sql(table: Table) -> str:
    """Insert one row of all columns, or put it in the place of the one with its key."""
    dialect = sqlite.dialect(paramstyle="qmark")
    return str(insert(table).prefix_with("OR REPLACE").compile(dialect=dialect))


@cache
def update_sql(table: Table, names: tuple[str, ...]) -> str:
    """Set columns and the crc of the row with a given key of one column; parameters in this order, the key last."""
    dialect = sqlite.dialect(paramstyle="qmark")
    values: list[tuple[Column[Any], BindParameter[Any]]] = [
        (table.c[name], bindparam(f"new_{name}")) for name in (*names, "crc")
    ]
    key = next(iter(table.primary_key.columns))
    statement = update(table).where(key == bindparam("key")).ordered_values(*values)
    return str(statement.compile(dialect=dialect))


@cache
def delete_sql(table: Table) -> str:
    """Delete the rows whose (first) key lies in [start, stop); parameters by position."""
    dialect = sqlite.dialect(paramstyle="qmark")
    key = next(iter(table.primary_key.columns))
    statement = delete(table).where(key >= bindparam("start"), key < bindparam("stop"))
    return str(statement.compile(dialect=dialect))


@cache
def between_sql(table: Table) -> str:
    """The rows whose (first) key lies in [start, stop), in its order; parameters by position."""
    dialect = sqlite.dialect(paramstyle="qmark")
    key = next(iter(table.primary_key.columns))
    statement = select(table).where(key >= bindparam("start"), key < bindparam("stop")).order_by(key)
    return str(statement.compile(dialect=dialect))


@cache
def select_sql(table: Table) -> str:
    """All rows in order of the primary key."""
    return compiled(select(table).order_by(*table.primary_key.columns))
