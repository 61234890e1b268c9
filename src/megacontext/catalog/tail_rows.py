"""The unsealed tail as rows of tokens: appended, rewritten, cut off below."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.catalog import schema
from megacontext.catalog.newest import NewestRows
from megacontext.catalog.noted_rows import NotedRows
from megacontext.catalog.queries import read_tail_rows
from megacontext.catalog.rows import blob_row, tokens_of
from megacontext.errors import InvariantError

__all__ = ["TAIL_ROW_TOKENS", "TailRows"]

TAIL_ROW_TOKENS = 4096  # of a long append; reading a little of the tail should not read much of it
_MERGED_ROW_TOKENS = 128  # short appends are gathered in one row, so that token by token does not mean row by row

Tokens = npt.NDArray[np.uint32]


class TailRows:
    """Edits the tail within one transaction, and moves ``progress``."""

    def __init__(self, newest: NewestRows, rows: NotedRows) -> None:
        self._connection = newest.connection
        self._newest = newest
        self._progress = newest.progress
        self._rows = rows

    def append(self, start: int, token_ids: Tokens) -> None:
        if start != self._progress.num_tokens:
            raise InvariantError(f"append at {start}, but the history ends at {self._progress.num_tokens}")
        if len(token_ids) == 0:
            return
        last = self._newest.tail_row()
        self._progress.num_tokens += len(token_ids)
        if last is not None and len(last[1]) // 4 + len(token_ids) <= _MERGED_ROW_TOKENS:
            start = last[0]
            token_ids = np.concatenate([tokens_of([last[1]]), token_ids])
        self._newest.tail = self._write(start, token_ids)

    def replace(self, start: int, token_ids: Tokens) -> None:
        """Rewrite in place; rows that lie wholly within may be damaged or missing."""
        stop = start + len(token_ids)
        sealed, num_tokens = self._progress.sealed_tokens, self._progress.num_tokens
        if not sealed <= start <= stop <= num_tokens:
            raise InvariantError(f"[{start}, {stop}) is not within the tail [{sealed}, {num_tokens})")
        before, after = self._kept_around(start, stop)
        self._newest.tail = None
        self._rows.drop(schema.tail, start - len(before), stop)
        self._write(start - len(before), np.concatenate([before, token_ids, after]))

    def drop_below(self, stop: int) -> None:
        """Cut off what is sealed; a row that crosses ``stop`` keeps its rest."""
        _, after = self._kept_around(self._progress.sealed_tokens, min(stop, self._progress.num_tokens))
        self._newest.tail = None
        self._rows.drop(schema.tail, 0, stop)
        if len(after):
            self._write(stop, after)

    def _write(self, start: int, token_ids: Tokens) -> tuple[int, bytes]:
        """The last row of what was written."""
        data = np.ascontiguousarray(token_ids, dtype="<u4")
        rows = [
            blob_row(start + first, len(piece), piece.tobytes())
            for first in range(0, len(data), TAIL_ROW_TOKENS)
            for piece in [data[first : first + TAIL_ROW_TOKENS]]
        ]
        self._rows.replace(schema.tail, rows)
        return rows[-1][0], rows[-1][2]

    def _kept_around(self, start: int, stop: int) -> tuple[Tokens, Tokens]:
        """Tokens of rows that cross ``start`` or ``stop`` and lie outside; only such rows must be intact."""
        before = after = np.empty(0, dtype=np.uint32)
        if start > self._progress.sealed_tokens:
            for first, count, tokens in read_tail_rows(self._connection, start - 1, start):
                if first < start < first + count:
                    before = tokens_of([tokens])[: start - first]
        if stop < self._progress.num_tokens:
            for first, count, tokens in read_tail_rows(self._connection, stop - 1, stop):
                if first < stop < first + count:
                    after = tokens_of([tokens])[stop - first :]
        return before, after
