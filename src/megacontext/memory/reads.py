"""Reads of the tree at any level, one span or many at once.

A reader looks at a snapshot of the history's length, which ``refresh`` moves on. Where things are (sealed shard or
catalog) may change under it at any time, because another process seals; so it looks in the catalog first, and if a
row is no longer there it asks how far is sealed by then. Gists that nobody has stored yet are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.memory.availability import Availability
from megacontext.memory.gist_reads import GistReader
from megacontext.memory.parts import Parts
from megacontext.memory.scans import Span
from megacontext.memory.snapshot import Snapshot
from megacontext.memory.token_reads import TokenReader
from megacontext.ports.catalog import CatalogState
from megacontext.ports.gister import GistBatch, Gister
from megacontext.tree.cuts import Cut

__all__ = ["TreeReader"]


class TreeReader:
    """Tokens and gists wherever they are: sealed shards, the catalog's tail, or not computed yet.

    num_changes: how often what was stored has changed in place; who keeps what was read has to read it again.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.num_changes = 0
        self._snapshot = Snapshot(parts)
        self._tokens = TokenReader(parts, self._snapshot)
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
        return self._tokens.valid_span(start, stop)

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
        self._availability.prefetch(cut)

    def compute(self, level: int, start: int, stop: int) -> GistBatch:
        """Fresh gists of nodes [start, stop), whatever is stored of them; levels below are read."""
        return self._gists.compute(level, start, stop)

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Token ids of ``[start, stop)``."""
        return self._tokens.stretch(start, stop)

    def token_batch(self, spans: Sequence[Span]) -> list[npt.NDArray[np.uint32]]:
        """Token ids of many spans in one batch of reads, in the order given."""
        return self._tokens.batch(spans)

    def tokens_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Token ids at many positions, in any order, in one batch of reads."""
        return self._tokens.at(positions)
