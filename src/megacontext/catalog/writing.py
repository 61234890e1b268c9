"""One transaction of changes to the catalog."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
from sqlalchemy import bindparam, delete

from megacontext.catalog import schema
from megacontext.catalog.journal import Change
from megacontext.catalog.newest import NewestRows
from megacontext.catalog.noted_rows import NotedRows
from megacontext.catalog.queries import (
    extent_by_id,
    read_sealed_nodes,
    source_by_id,
)
from megacontext.catalog.rows import (
    blob_row,
    extent_row,
    gist_payloads,
    segment_row,
    source_row,
    with_crc,
)
from megacontext.catalog.statements import compiled, replace_sql
from megacontext.catalog.tail_rows import TailRows
from megacontext.catalog.word_index import add_passages, as_int64, clear_index
from megacontext.errors import InvariantError
from megacontext.ports.catalog import Extent, MemoryInfo, Passage, Segment, Source
from megacontext.ports.gister import GistBatch

__all__ = ["SqliteWriter"]

_MANY_ANCHORS = 4096  # of an extent: a long source has thousands of those, too many to be held until the commit


@cache
def _delete_gists() -> str:
    table = schema.gists
    return compiled(delete(table).where(table.c.level == bindparam("level"), table.c.node < bindparam("stop")))


class SqliteWriter:
    """CatalogWriter on an open transaction; ``finish`` writes how far everything is. newest: for the next one."""

    def __init__(self, connection: sqlite3.Connection, info: MemoryInfo, last: NewestRows | None = None) -> None:
        self._connection = connection
        self._info = info
        self.newest = NewestRows.following(connection, last)
        self._progress = self.newest.progress
        self.num_commits = self._progress.num_commits
        self.has_erased = False
        self._rows = NotedRows(connection)
        self._tail = TailRows(self.newest, self._rows)

    def add_source(self, source: Source) -> int:
        self._progress.num_sources += 1
        source_id = self._progress.num_sources
        self.newest.source = added = replace(source, source_id=source_id)
        self.newest.extent = None
        self._rows.insert(schema.sources, source_row(added))
        for key, value in source.labels.items():
            self._rows.insert(schema.labels, with_crc((source_id, key, value)))
        return source_id

    def extend_source(self, source_id: int, *, token_stop: int, num_bytes: int) -> None:
        if source_id != self._progress.num_sources:
            raise InvariantError(f"source {source_id} cannot grow: {self._progress.num_sources} is the newest")
        source, extent = self.newest.of_source(source_id)
        if token_stop < source.token_stop:
            raise InvariantError(f"source {source_id} ends at {source.token_stop} and cannot shrink to {token_stop}")
        larger = replace(source, token_stop=token_stop, num_bytes=num_bytes)
        self._rows.update(schema.sources, source_row(larger), "token_stop", "num_bytes")
        byte_stop = extent.byte_stop + num_bytes - source.num_bytes
        grown = replace(extent, token_stop=token_stop, byte_stop=byte_stop)
        self._rows.update(schema.extents, extent_row(self._progress.num_extents, grown), "token_stop", "byte_stop")
        self.newest.source, self.newest.extent = larger, grown

    def add_extent(self, extent: Extent) -> None:
        self._progress.num_extents += 1
        self.newest.extent = extent
        row = extent_row(self._progress.num_extents, extent)
        self._rows.insert(schema.extents, row, is_large=len(extent.anchors) >= _MANY_ANCHORS)

    def append_tail(self, start: int, token_ids: npt.NDArray[np.uint32]) -> None:
        self._tail.append(start, token_ids)

    def replace_tail(self, start: int, token_ids: npt.NDArray[np.uint32]) -> None:
        self._tail.replace(start, token_ids)

    def seal(self, segment: Segment) -> None:
        size = self._info.segment_tokens
        if segment.segment * size != self._progress.sealed_tokens:
            raise InvariantError(f"segment {segment.segment} is not next: {self._progress.sealed_tokens} are sealed")
        self._rows.insert(schema.segments, segment_row(segment))
        stop = self._progress.sealed_tokens + size
        self._tail.drop_below(stop)
        self._progress.sealed_tokens = stop
        self._progress.num_tokens = max(self._progress.num_tokens, stop)

    def put_gists(self, level: int, start_node: int, gists: GistBatch) -> None:
        shape = (len(gists), self._info.gist_width, self._info.dim)
        if gists.vectors.shape != shape:
            raise InvariantError(f"gists of level {level} have shape {gists.vectors.shape}, not {shape}")
        payloads = gist_payloads(gists)
        rows = [blob_row(level, start_node + index, payload) for index, payload in enumerate(payloads)]
        # level and node stand for themselves: blob_row is (level, node, payload, crc)
        self._connection.executemany(replace_sql(schema.gists), rows)

    def seal_gists(self, level: int, stop_node: int) -> None:
        sealed = read_sealed_nodes(self._connection).get(level, 0)
        if stop_node < sealed:
            raise InvariantError(f"level {level} is sealed to node {sealed} and cannot go back to {stop_node}")
        self._rows.replace(schema.sealed_nodes, [with_crc((level, stop_node))])
        self._connection.execute(_delete_gists(), {"level": level, "stop": stop_node})

    def add_passages(self, passages: Sequence[Passage]) -> None:
        if not passages:
            return
        num_terms, added = add_passages(self._connection, passages)
        self._progress.num_passages += len(passages)
        self._progress.num_terms += num_terms
        self._progress.index_sum = as_int64(self._progress.index_sum + added)
        self._progress.indexed_tokens = passages[-1].token_stop

    def drop_index(self) -> None:
        clear_index(self._connection)
        progress = self._progress
        progress.indexed_tokens = progress.num_passages = progress.num_terms = progress.index_sum = 0

    def set_label(self, source_id: int, key: str, value: str) -> None:
        self._rows.replace(schema.labels, [with_crc((source_id, key, value))])
        self.newest.forget_source()

    def reseal(self, segment: Segment) -> None:
        if not 0 <= segment.segment * self._info.segment_tokens < self._progress.sealed_tokens:
            raise InvariantError(f"segment {segment.segment} is not sealed")
        self._rows.update(schema.segments, segment_row(segment), "digest", "raw_digest")

    def describe_source(self, source_id: int, *, role: str, author: str, licence: str) -> None:
        source = source_by_id(self._connection, source_id)
        if source is None:
            raise InvariantError(f"there is no source {source_id}")
        self.newest.forget_source()
        described = source.described(role=role, author=author, licence=licence)
        self._rows.update(schema.sources, source_row(described), "role", "author", "licence")

    def erase_source(self, source_id: int) -> None:
        source = source_by_id(self._connection, source_id)
        if source is None:
            raise InvariantError(f"there is no source {source_id}")
        self.has_erased = True
        self.newest.forget_source()
        self._rows.update(schema.sources, source_row(source.erased()), *schema.sources.c.keys()[1:-1])
        self._rows.drop(schema.labels, source_id, source_id + 1)
        ids = self._connection.execute("SELECT extent_id FROM extents WHERE source_id = ?", (source_id,)).fetchall()
        for (extent_id,) in ids:
            extent = extent_by_id(self._connection, extent_id)
            if extent is not None:
                self._rows.update(
                    schema.extents, extent_row(extent_id, extent.erased()), *schema.extents.c.keys()[1:-1]
                )

    def finish(self) -> Iterator[Change]:
        """Write the progress row, before the commit; what changed, for the journal, to be taken after the commit."""
        self._progress.num_commits += 1
        self.num_commits = self._progress.num_commits
        self._rows.update(schema.progress, self._progress.row(), *schema.progress.c.keys()[1:-1])
        return self._rows.changes()
