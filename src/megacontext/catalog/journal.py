"""A second copy of what cannot be computed again: ``catalog.journal``, one checksummed JSON line per changed row.

The catalog's transaction is what makes a commit durable; its rows are written here afterwards, without waiting for
the disk. So the journal may lag behind the catalog after a crash (the next commit writes it anew), but may never be
ahead of it: a journal that knows more commits than the catalog is evidence that the catalog lost some. From it a
damaged catalog is made again: sources, labels, extents, segments and tail; gists and word index come from tokens.
"""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
from sqlalchemy import Table

from megacontext.catalog import schema
from megacontext.errors import CorruptionError
from megacontext.units import KIB, MIB

__all__ = [
    "JOURNALED",
    "JOURNAL_FILE",
    "Change",
    "Journal",
    "JournalContents",
    "key_of",
    "lost_commits",
    "read_journal",
]

JOURNAL_FILE = "catalog.journal"
JOURNALED: tuple[Table, ...] = (
    schema.memory,
    schema.sources,
    schema.labels,
    schema.extents,
    schema.segments,
    schema.sealed_nodes,
    schema.tail,
    schema.progress,
)
_GROWTH_BYTES = MIB  # appends rewrite the same few rows; beyond this and twice its size the file is written anew
_LAST_LINE_BYTES = 4 * KIB
_PACKED_BYTES = KIB  # the tail's last row changes with every append: packing it takes longer than all else that is done
_NUM_KEYS = {table.name: len(table.primary_key.columns) for table in JOURNALED}

_to_json = json.JSONEncoder(separators=(",", ":")).encode

Row = tuple[Any, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A row put in place, or (row None) the rows of a table dropped whose (first) key lies in [start, stop)."""

    table: str
    row: Row | None = None
    start: int = 0
    stop: int = 0


@dataclass
class JournalContents:
    """Rows by table and key, as of ``num_commits``; ``problem`` says why they are not to be trusted, or is ''."""

    tables: dict[str, dict[Row, Row]] = field(default_factory=lambda: {name: {} for name in _NUM_KEYS})
    problem: str = ""

    @property
    def num_commits(self) -> int:
        return int(self.tables["progress"].get((1,), (1, -1))[1])

    def apply(self, change: Change) -> None:
        rows = self.tables[change.table]
        if change.row is not None:
            rows[key_of(change.table, change.row)] = change.row
        else:
            for key in [key for key in rows if change.start <= key[0] < change.stop]:
                del rows[key]


def lost_commits(path: Path, count: int) -> CorruptionError:
    """What to say of a catalog that is behind its journal."""
    return CorruptionError(
        f"{path} lost {count} of its last commits, {JOURNAL_FILE} still has them; run 'megacontext check --repair'"
    )


def key_of(table: str, row: Row) -> Row:
    return row[: _NUM_KEYS[table]]


class Journal:
    """Writes the journal of one catalog; failures to do so are logged, because the commit itself is safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_commits: int | None = None
        self._limit_bytes = 0
        self._num_bytes = 0

    def last_commit(self) -> int:
        """The newest commit in the file, -1 if there is none or its last line is damaged."""
        if self._num_commits is None:
            self._num_commits = _last_commit(self._path)
            self._num_bytes = self._path.stat().st_size if self._path.exists() else 0
            self._limit_bytes = 2 * self._num_bytes + _GROWTH_BYTES
        return self._num_commits

    def begin(self, everything: Iterator[Change]) -> None:
        """Write the first copy, of a catalog without commits: killed amid the first one, it lags behind and is not
        missing."""
        with suppress(OSError):  # the first commit tries again
            self.rewrite(0, everything)

    def record(self, num_commits: int, changes: Iterable[Change], everything: Iterator[Change]) -> None:
        """Add the changes of a commit, the progress row last; ``everything`` is asked for when the file is to be
        written anew."""
        try:
            lines = map(_line, changes)
            head = _joined(lines, _GROWTH_BYTES)  # as a rule all of them
            if self.last_commit() != num_commits - 1 or self._num_bytes + len(head) > self._limit_bytes:
                self.rewrite(num_commits, everything)
                return
            part = head
            while part:
                self._append(part)
                self._num_bytes += len(part)
                part = _joined(lines, _GROWTH_BYTES)
            self._num_commits = num_commits
        except OSError as error:
            self._num_commits = -1
            log.warning("%s could not be written (%s); the next commit tries again", self._path, error.strerror)

    def _append(self, lines: bytes) -> None:
        """By the system's own calls: a file object costs as much as a statement of the transaction."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            num_written = os.write(descriptor, lines)
        finally:
            os.close(descriptor)
        if num_written < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def rewrite(self, num_commits: int, everything: Iterator[Change]) -> None:
        """Replace the file by one that holds each row once."""
        unfinished = self._path.with_name(f"{self._path.name}.new")
        with unfinished.open("wb") as file:
            file.writelines(map(_line, everything))
            self._num_bytes = file.tell()
        unfinished.replace(self._path)
        self._limit_bytes = 2 * self._num_bytes + _GROWTH_BYTES
        self._num_commits = num_commits


def read_journal(path: Path) -> JournalContents:
    """Replay a journal. Lines cut off at the end by a power cut look like damage, and are reported as such."""
    contents = JournalContents()
    try:
        data = path.read_bytes()
    except OSError as error:
        contents.problem = f"cannot be read ({error.strerror})"
        return contents
    if not data.endswith(b"\n"):
        contents.problem = "is cut short"
    for number, line in enumerate(data.splitlines(), start=1):
        change = _change_of(line)
        if change is None:
            contents.problem = f"line {number} fails its checksum"
        else:
            contents.apply(change)
    if not contents.problem and contents.num_commits < 0:
        contents.problem = "is empty"
    return contents


def _joined(lines: Iterator[bytes], num_bytes: int) -> bytes:
    """The next lines, until they are ``num_bytes`` or more: those of a long source are too many to be held."""
    taken, num_taken = [], 0
    for line in lines:
        taken.append(line)
        num_taken += len(line)
        if num_taken >= num_bytes:
            break
    return b"".join(taken)


def _line(change: Change) -> bytes:
    if change.row is None:
        body: list[Any] = [change.table, change.start, change.stop]
    else:
        body = [change.table, [_encoded(value) if type(value) is bytes else value for value in change.row]]
    text = _to_json(body).encode()
    return b"%08x %s\n" % (google_crc32c.value(text), text)


def _change_of(line: bytes) -> Change | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % google_crc32c.value(text):
        return None
    match json.loads(text):
        case [str(table), list(values)]:
            return Change(table, tuple(_decoded(value) if isinstance(value, dict) else value for value in values))
        case [str(table), int(start), int(stop)]:
            return Change(table, None, start, stop)
    return None


def _encoded(blob: bytes) -> dict[str, str]:
    level = 0 if len(blob) < _PACKED_BYTES else 1
    return {"zlib": base64.b64encode(zlib.compress(blob, level)).decode()}


def _decoded(value: dict[str, str]) -> bytes:
    return zlib.decompress(base64.b64decode(value["zlib"]))


def _last_commit(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LAST_LINE_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return -1
    change = _change_of(lines[-1].removesuffix(b"\n")) if lines and lines[-1].endswith(b"\n") else None
    if change is None or change.table != "progress" or change.row is None:
        return -1
    return int(change.row[1])
