"""Finding damage in the full-text index: what it says is compared with what was put in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from megacontext.catalog.queries import read_progress
from megacontext.catalog.rows import CATALOG_FILE
from megacontext.catalog.schema import WORD_INDEX, WORD_INDEX_DDL
from megacontext.catalog.word_index import index_sum
from megacontext.ports.catalog import Damage

__all__ = ["check_index"]

_SHADOWS = ("data", "idx", "docsize", "config")
_AVERAGES_ID = 1  # row of the data table with the number of passages and of words
_SIZES = f"""
    SELECT sizes.id, passages.num_terms, sizes.sz
    FROM {WORD_INDEX}_docsize AS sizes LEFT JOIN passages ON passages.token_start = sizes.id
"""  # noqa: S608 - our own constant


def check_index(connection: sqlite3.Connection) -> Iterator[Damage]:
    """Words, passages and places by the running checksum; lengths by the passages; the rest by SQLite's own check."""
    progress = read_progress(connection)
    for look in (_check_words, _check_lengths, _check_averages, _check_lookup):
        try:
            problem = look(connection)
        except (sqlite3.Error, ValueError, IndexError) as error:
            problem = f"cannot be read ({error})"
        if problem:
            yield Damage(
                object_name=f"{CATALOG_FILE}: {WORD_INDEX}",
                token_start=0,
                token_stop=progress.indexed_tokens,
                problem=problem,
                repairable="tokens",
            )


def _check_words(connection: sqlite3.Connection) -> str:
    return "" if index_sum(connection) == read_progress(connection).index_sum else "words fail their checksum"


def _check_lengths(connection: sqlite3.Connection) -> str:
    count = 0
    for start, num_terms, size in connection.execute(_SIZES):
        count += 1
        if num_terms is None or _integers(size) != [num_terms]:
            return f"the length of passage {start} is not as it was written"
    num_passages = read_progress(connection).num_passages
    return "" if count == num_passages else f"has {count} passages instead of {num_passages}"


def _check_averages(connection: sqlite3.Connection) -> str:
    """The counts that ranking rests on."""
    progress = read_progress(connection)
    row = connection.execute(f"SELECT block FROM {WORD_INDEX}_data WHERE id = {_AVERAGES_ID}").fetchone()  # noqa: S608
    written = _integers(row[0]) if row else None
    expected = [progress.num_passages, progress.num_terms]
    return "" if (written or [0, 0]) == expected else f"counts {written} are not {expected}"


def _check_lookup(connection: sqlite3.Connection) -> str:
    """FTS5's own check of how words are found, on a copy: the command counts as a write."""
    copy = sqlite3.connect(":memory:")
    try:
        copy.execute(WORD_INDEX_DDL[0])
        for shadow in _SHADOWS:
            table = f"{WORD_INDEX}_{shadow}"
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
            copy.execute(f"DELETE FROM {table}")  # noqa: S608
            if rows:
                places = ", ".join("?" * len(rows[0]))
                copy.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608
        copy.commit()
        fresh = sqlite3.connect(":memory:")
        try:
            fresh.deserialize(copy.serialize())  # a connection that has nothing of the empty index in its memory
            fresh.execute(f"INSERT INTO {WORD_INDEX}({WORD_INDEX}) VALUES ('integrity-check')")  # noqa: S608
        finally:
            fresh.close()
    finally:
        copy.close()
    return ""


def _integers(data: bytes) -> list[int]:
    """SQLite's variable-length integers, seven bits a byte, the ninth byte whole."""
    values, value, length = [], 0, 0
    for byte in data:
        length += 1
        if length == 9:
            value, more = value << 8 | byte, False
        else:
            value, more = value << 7 | byte & 0x7F, bool(byte & 0x80)
        if not more:
            values.append(value)
            value, length = 0, 0
    if length:
        raise ValueError("an integer is cut short")
    return values
