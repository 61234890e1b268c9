"""The rows at the end of the history, as the last transaction of this connection left them.

An append continues them: the progress, the last row of the tail, the newest source and its extent. To read each of
them again, to verify it and take it apart costs more than to write it. Whether anybody else has committed since, SQLite
itself says (``PRAGMA data_version``); then, and after a failure, they are read.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from megacontext.catalog.queries import extent_by_id, read_progress, read_tail_rows, source_by_id
from megacontext.catalog.rows import Progress
from megacontext.errors import CorruptionError
from megacontext.ports.catalog import Extent, Source

__all__ = ["NewestRows"]

TailRow = tuple[int, bytes]


@dataclass(kw_only=True)
class NewestRows:
    """Within one transaction; each of the rows is None until it is read or written. tail: (start, token bytes)."""

    connection: sqlite3.Connection
    data_version: int
    progress: Progress
    tail: TailRow | None = None
    source: Source | None = None
    extent: Extent | None = None

    @classmethod
    def following(cls, connection: sqlite3.Connection, last: NewestRows | None) -> NewestRows:
        """Those of a transaction that has begun. last: those of the one before, if it was committed."""
        (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        if last is None or last.connection is not connection or last.data_version != data_version:
            return cls(connection=connection, data_version=data_version, progress=read_progress(connection))
        return cls(
            connection=connection,
            data_version=data_version,
            progress=Progress(**vars(last.progress)),
            tail=last.tail,
            source=last.source,
            extent=last.extent,
        )

    def tail_row(self) -> TailRow | None:
        """The last row of the tail, None if there is none."""
        stop = self.progress.num_tokens
        if self.tail is None and stop > self.progress.sealed_tokens:
            rows = read_tail_rows(self.connection, stop - 1, stop)
            self.tail = (rows[-1][0], rows[-1][2]) if rows else None
        return self.tail

    def of_source(self, source_id: int) -> tuple[Source, Extent]:
        """The newest source, which has this id, and the newest extent; CorruptionError if that is not its own."""
        if self.source is None:
            self.source = source_by_id(self.connection, source_id)
        if self.extent is None:
            self.extent = extent_by_id(self.connection, self.progress.num_extents)
        if self.source is None or self.extent is None or self.extent.source_id != source_id:
            raise CorruptionError(f"the catalog lacks the last extent of source {source_id}; run 'megacontext check'")
        return self.source, self.extent

    def forget_source(self) -> None:
        """Something else than its length has changed."""
        self.source = self.extent = None
