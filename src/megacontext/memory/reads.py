"""Reads of the tree at any level, one span or many at once.

A reader looks at a snapshot of the history's length, which ``refresh`` moves on. Where things are (sealed shard or
catalog) may change under it at any time, because another process seals; so it looks in the catalog first, and if a
row is no longer there it asks how far is sealed by then. Gists that nobody has stored yet are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import CorruptionError
from megacontext.memory.availability import Availability
from megacontext.memory.gist_reads import GistReader
from megacontext.memory.layout import gist_spec, meta_spec, token_spec
from megacontext.memory.parts import Parts
from megacontext.memory.scans import ReadSpans, Span, scanned
from megacontext.memory.snapshot import Snapshot
from megacontext.ports.arrays import SupportsPrefetch
from megacontext.ports.catalog import CatalogState
from megacontext.ports.gister import GistBatch, Gister
from megacontext.tree.cuts import Cut
from megacontext.values import span

__all__ = ["TreeReader"]


class TreeReader:
    """Tokens and gists wherever they are: sealed shards, the catalog's tail, or not computed yet.

    num_changes: how often what was stored has changed in place; who keeps what was read has to read it again.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.num_changes = 0
        self._tokens_spec = token_spec(parts.info)
        self._snapshot = Snapshot(parts)
        self._gists = GistReader(parts, self._snapshot, self.tokens)
        self._availability = Availability(parts, self._snapshot, self._gists)

    @property
    def state(self) -> CatalogState:
        """How far things are in this reader's snapshot."""
        return self._snapshot.state

    @state.setter
    def state(self, state: CatalogState) -> None:
        self._snapshot.state = state

    @property
    def num_tokens(self) -> int:
        return self._snapshot.num_tokens

    @property
    def gister(self) -> Gister:
        """What made the gists; BaseMismatchError as ``LazyGister``."""
        return self._parts.gister()

    @property
    def num_levels(self) -> int:
        return self._snapshot.num_levels

    @property
    def num_erased(self) -> int:
        """Sources that had been erased by the commit that is seen."""
        return self._snapshot.num_erased

    def refresh(self) -> int:
        """See the last commit, and forget what an erasure has changed; the number of tokens."""
        if self._snapshot.refresh():
            self._parts.arrays.forget()
            self.forget()
        return self.num_tokens

    def forget(self) -> None:
        """Drop computed rows: what is stored has changed (an erasure, a repair)."""
        self._gists.forget()
        self.num_changes += 1

    def valid_span(self, start: int, stop: int) -> Span:
        """The same as ints; InvalidValueError unless ``[start, stop)`` lies within the tokens."""
        return span(start, stop, limit=self.num_tokens, of="tokens of this memory")

    def gists(self, level: int, start: int, stop: int) -> GistBatch:
        """Gists of nodes ``[start, stop)`` of a level >= 1, with offsets and weights."""
        return self._gists.rows(level, start, stop)

    def gist_batch(self, levels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]) -> GistBatch:
        """Gists of many nodes (levels[i], indices[i]), any order and any levels >= 1, in one batch of reads."""
        return self._gists.batch(levels, indices)

    def can_read(self, cut: Cut) -> npt.NDArray[np.bool_]:
        """Whether each row [n] of a cut could be read just now; CorruptionError if it is there, but damaged."""
        return self._availability.of(cut)

    def prefetch(self, cut: Cut) -> None:
        """Begin to fetch what these rows show, if the store is one that can; nothing is promised."""
        arrays, info = self._parts.arrays, self._parts.info
        if not isinstance(arrays, SupportsPrefetch):
            return
        for level in np.unique(cut.levels).tolist():
            rows, width = cut[cut.levels == level], self._parts.tree.width(level)
            sealed = self._snapshot.sealed_nodes(level) if level else self._snapshot.state.sealed_tokens
            starts = rows.starts // width
            stops = np.minimum(starts + 1 if level else rows.stops, sealed)
            spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
            for spec in (gist_spec(info, level), meta_spec(info, level)) if level else (self._tokens_spec,):
                arrays.prefetch(spec, spans)

    def compute(self, level: int, start: int, stop: int) -> GistBatch:
        """Fresh gists of nodes [start, stop), whatever is stored of them; levels below are read."""
        return self._gists.compute(level, start, stop)

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Token ids of ``[start, stop)``."""
        return self._tokens([(start, stop)], scanned(self._parts.arrays))[0]

    def token_batch(self, spans: Sequence[Span]) -> list[npt.NDArray[np.uint32]]:
        """Token ids of many spans in one batch of reads, in the order given."""
        return self._tokens(spans, self._parts.arrays.read_many)

    def tokens_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
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
            return np.asarray(self._parts.arrays.gather(self._tokens_spec, positions), np.uint32)
        is_sealed = positions < sealed
        token_ids = np.empty(len(positions), np.uint32)
        token_ids[is_sealed] = self._parts.arrays.gather(self._tokens_spec, positions[is_sealed])
        token_ids[~is_sealed] = tail[positions[~is_sealed] - first]
        return token_ids

    def _tail(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.uint32]]:
        """Unsealed tokens of [start, stop), and how far is sealed by now."""
        sealed, tail = self._parts.catalog.tail(start, stop)
        start = max(start, sealed)
        if len(tail) != max(0, stop - start):
            raise CorruptionError(f"catalog: tokens [{start}, {stop}) are not in the tail; run `check --repair`")
        return sealed, tail

    def _tokens(self, spans: Sequence[Span], read: ReadSpans) -> list[npt.NDArray[np.uint32]]:
        spans = [self.valid_span(start, stop) for start, stop in spans]
        sealed = self._snapshot.state.sealed_tokens
        if all(start < stop <= sealed for start, stop in spans):
            return [np.asarray(tokens, np.uint32) for tokens in read(self._tokens_spec, spans)]
        tail_spans = [wanted for wanted in spans if wanted[1] > sealed]
        tail_start, tail = 0, np.empty(0, np.uint32)
        if tail_spans:
            first = max(sealed, min(start for start, _ in tail_spans))
            last = max(stop for _, stop in tail_spans)
            sealed, tail = self._tail(first, last)
            tail_start = max(first, sealed)
        heads = [(start, min(stop, sealed)) for start, stop in spans]
        sealed_spans = [head for head in heads if head[0] < head[1]]
        reads = iter(read(self._tokens_spec, sealed_spans) if sealed_spans else [])
        pieces = []
        for start, stop in spans:
            parts = [np.asarray(next(reads), np.uint32)] if start < min(stop, sealed) else []
            if stop > sealed:
                parts.append(tail[max(start, sealed) - tail_start : stop - tail_start])
            pieces.append(parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint32), *parts]))
        return pieces
