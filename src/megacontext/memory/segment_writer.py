"""Whole segments out of tokens that arrive in pieces, written past the catalog as they fill.

A shard that is written is not part of the memory before a transaction declares it; what a failed attempt left behind
is removed before the next (`orphans`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.memory.layout import token_spec
from megacontext.memory.parts import Parts
from megacontext.memory.segments import token_bytes, token_digest
from megacontext.memory.shards import WRITE_AHEAD, ShardRows, write_shards
from megacontext.ports.catalog import Segment

__all__ = ["SegmentWriter"]

Tokens = npt.NDArray[np.uint32]


class SegmentWriter:
    """Holds at most ``WRITE_AHEAD`` segments of tokens, and what it is given at once.

    tail: the tokens from ``sealed`` (where the first unsealed segment begins) on; unsourced: ranges of them that have
    no raw source but themselves.
    """

    def __init__(self, parts: Parts, sealed: int, tail: Tokens, unsourced: Sequence[tuple[int, int]]) -> None:
        self._parts = parts
        self._size = parts.info.segment_tokens
        self._spec = token_spec(parts.info)
        self._start = sealed  # of what is pending
        self._pending = [tail]
        self._num_pending = len(tail)
        self._unsourced = list(unsourced)

    def add(self, token_ids: Tokens, *, has_source: bool) -> list[Segment]:
        """Take the next tokens; the segments that were written, to be declared in this order."""
        stop = self._start + self._num_pending
        if not has_source:
            self._unsourced.append((stop, stop + len(token_ids)))
        self._pending.append(token_ids)
        self._num_pending += len(token_ids)
        return self._write() if self._num_pending >= WRITE_AHEAD * self._size else []

    def finish(self) -> tuple[list[Segment], Tokens]:
        """The last segments, and the tokens behind them."""
        segments = self._write()
        return segments, np.concatenate(self._pending)

    def _write(self) -> list[Segment]:
        """Every segment that is whole."""
        tokens = np.concatenate(self._pending)
        num_whole = len(tokens) // self._size
        segments: list[Segment] = []
        shards: list[ShardRows] = []
        for rows in tokens[: num_whole * self._size].reshape(num_whole, self._size):
            number = self._start // self._size
            segments.append(Segment(segment=number, digest=token_digest(rows), raw_digest=self._put_raw(rows)))
            shards.append((self._spec, number, rows))
            self._start += self._size
            if len(shards) == WRITE_AHEAD:
                write_shards(self._parts.arrays, shards)
                shards = []
        if shards:
            write_shards(self._parts.arrays, shards)
        self._pending = [tokens[num_whole * self._size :].copy()]  # a view would keep all of them
        self._num_pending = len(self._pending[0])
        self._unsourced = [(start, stop) for start, stop in self._unsourced if stop > self._start]
        return segments

    def _put_raw(self, rows: Tokens) -> str:
        """Keep tokens of a segment that have no other raw source as a blob; its digest, '' if there are none."""
        within = [(max(start - self._start, 0), min(stop - self._start, self._size)) for start, stop in self._unsourced]
        pieces = [rows[start:stop] for start, stop in within if start < stop]
        return self._parts.blobs.put(token_bytes(pieces)) if pieces else ""
