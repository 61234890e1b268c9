"""Tokens wherever they are: sealed shards, or the catalog's tail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import CorruptionError
from megacontext.memory.layout import token_spec
from megacontext.memory.parts import Parts
from megacontext.memory.scans import ReadSpans, Span, scanned
from megacontext.memory.snapshot import Snapshot
from megacontext.values import span

__all__ = ["TokenReader"]


class TokenReader:
    """Tokens of a snapshot."""

    def __init__(self, parts: Parts, snapshot: Snapshot) -> None:
        self._parts = parts
        self._snapshot = snapshot
        self._spec = token_spec(parts.info)

    def valid_span(self, start: int, stop: int) -> Span:
        """The same as ints; InvalidValueError unless ``[start, stop)`` lies within the tokens."""
        return span(start, stop, limit=self._snapshot.num_tokens, of="tokens of this memory")

    def stretch(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Those of ``[start, stop)``; a long read leaves the store's cache alone."""
        return self._read([(start, stop)], scanned(self._parts.arrays))[0]

    def batch(self, spans: Sequence[Span]) -> list[npt.NDArray[np.uint32]]:
        """Those of many spans in one batch of reads, in the order given."""
        return self._read(spans, self._parts.arrays.read_many)

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Token ids at many positions, in any order, in one batch of reads."""
        if not len(positions):
            return np.empty(0, np.uint32)
        first, stop = int(positions.min()), int(positions.max()) + 1
        self.valid_span(first, stop)
        sealed, tail = self._snapshot.state.sealed_tokens, np.empty(0, np.uint32)
        if stop > sealed:
            first = max(first, sealed)
            sealed, tail = self._tail(first, stop)
            first = max(first, sealed)
        if stop <= sealed:
            return np.asarray(self._parts.arrays.gather(self._spec, positions), np.uint32)
        is_sealed = positions < sealed
        token_ids = np.empty(len(positions), np.uint32)
        token_ids[is_sealed] = self._parts.arrays.gather(self._spec, positions[is_sealed])
        token_ids[~is_sealed] = tail[positions[~is_sealed] - first]
        return token_ids

    def _tail(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.uint32]]:
        """Unsealed tokens of [start, stop), and how far is sealed by now."""
        sealed, tail = self._parts.catalog.tail(start, stop)
        start = max(start, sealed)
        if len(tail) != max(0, stop - start):
            raise CorruptionError(f"catalog: tokens [{start}, {stop}) are not in the tail; run `check --repair`")
        return sealed, tail

    def _read(self, spans: Sequence[Span], read: ReadSpans) -> list[npt.NDArray[np.uint32]]:
        spans = [self.valid_span(start, stop) for start, stop in spans]
        sealed = self._snapshot.state.sealed_tokens
        if all(start < stop <= sealed for start, stop in spans):
            return [np.asarray(tokens, np.uint32) for tokens in read(self._spec, spans)]
        tail_spans = [wanted for wanted in spans if wanted[1] > sealed]
        tail_start, tail = 0, np.empty(0, np.uint32)
        if tail_spans:
            first = max(sealed, min(start for start, _ in tail_spans))
            last = max(stop for _, stop in tail_spans)
            sealed, tail = self._tail(first, last)
            tail_start = max(first, sealed)
        heads = [(start, min(stop, sealed)) for start, stop in spans]
        sealed_spans = [head for head in heads if head[0] < head[1]]
        reads = iter(read(self._spec, sealed_spans) if sealed_spans else [])
        pieces = []
        for start, stop in spans:
            parts = [np.asarray(next(reads), np.uint32)] if start < min(stop, sealed) else []
            if stop > sealed:
                parts.append(tail[max(start, sealed) - tail_start : stop - tail_start])
            pieces.append(parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint32), *parts]))
        return pieces
