"""Reads of the tree at any level, one span or many at once.

A reader looks at a snapshot of the history's length, which ``refresh`` moves on. Where things are (sealed shard or
catalog) may change under it at any time, because another process seals; so it looks in the catalog first, and if a
row is no longer there it asks how far is sealed by then. Gists that nobody has stored yet are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.memory.gist_rows import RowCache, empty_batch, join, runs_of
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes, token_spec
from megacontext.memory.parts import Parts
from megacontext.ports.arrays import ArraySpec
from megacontext.ports.catalog import CatalogState
from megacontext.ports.gister import GistBatch, Gister
from megacontext.values import shown, span, whole_number

__all__ = ["TreeReader"]

_SCAN_SHARE = 8  # spans of at least this part of a shard are read whole

TOKENS = "tokens of this memory"

Span = tuple[int, int]
ReadSpans = Callable[[ArraySpec, Sequence[Span]], list[npt.NDArray[np.generic]]]


class TreeReader:
    """Tokens and gists wherever they are: sealed shards, the catalog's tail, or not computed yet."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tree = parts.tree
        self._tokens_spec = token_spec(parts.info)
        self._rows = RowCache(parts.info.gist_width, parts.info.dim)
        self._state: CatalogState | None = None

    @property
    def state(self) -> CatalogState:
        """How far things are in this reader's snapshot; looked up at first use, so that a damaged catalog can be
        opened to be repaired."""
        if self._state is None:
            self._state = self._parts.catalog.state()
        return self._state

    @state.setter
    def state(self, state: CatalogState) -> None:
        self._state = state

    @property
    def num_tokens(self) -> int:
        return self.state.num_tokens

    @property
    def gister(self) -> Gister:
        """What made the gists; BaseMismatchError as ``LazyGister``."""
        return self._parts.gister()

    @property
    def num_levels(self) -> int:
        return self._tree.num_levels(self.num_tokens)

    def refresh(self) -> int:
        """See the last commit; the number of tokens."""
        self.state = self._parts.catalog.state()
        return self.num_tokens

    def forget(self) -> None:
        """Drop computed rows (after a repair)."""
        self._rows.clear()

    # --- tokens -------------------------------------------------------------------------------------------------

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Token ids of ``[start, stop)``."""
        return self._tokens([(start, stop)], self._scanned)[0]

    def token_batch(self, spans: Sequence[Span]) -> list[npt.NDArray[np.uint32]]:
        """Token ids of many spans in one batch of reads, in the order given."""
        return self._tokens(spans, self._parts.arrays.read_many)

    def _tokens(self, spans: Sequence[Span], read: ReadSpans) -> list[npt.NDArray[np.uint32]]:
        spans = [span(start, stop, limit=self.num_tokens, of=TOKENS) for start, stop in spans]
        sealed = self.state.sealed_tokens
        tail_spans = [wanted for wanted in spans if wanted[1] > sealed]
        tail_start, tail = 0, np.empty(0, np.uint32)
        if tail_spans:
            first = max(sealed, min(start for start, _ in tail_spans))
            last = max(stop for _, stop in tail_spans)
            sealed, tail = self._parts.catalog.tail(first, last)
            tail_start = max(first, sealed)
            if len(tail) != max(0, last - tail_start):
                raise CorruptionError(
                    f"catalog: tokens [{tail_start}, {last}) are not in the tail; run `check --repair`"
                )
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

    # --- gists --------------------------------------------------------------------------------------------------

    def gists(self, level: int, start: int, stop: int) -> GistBatch:
        """Gists of nodes ``[start, stop)`` of a level >= 1, with offsets and weights."""
        level = self._level(level)
        start, stop = span(start, stop, limit=self._num_nodes(level), of=f"nodes of level {level}")
        sealed = self._sealed_nodes(level)
        pieces = [empty_batch(0, self._parts.info.gist_width, self._parts.info.dim)]
        if start < min(stop, sealed):
            pieces += self._sealed_gists(level, [(start, min(stop, sealed))], self._scanned)
        if stop > max(start, sealed):
            pieces += self._unsealed_gists(level, max(start, sealed), stop)
        return join(pieces[1:] or pieces)

    def gist_batch(self, levels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]) -> GistBatch:
        """Gists of many nodes (levels[i], indices[i]), any order and any levels >= 1, in one batch of reads."""
        if len(levels) != len(indices):
            raise InvalidValueError(f"{len(levels)} levels for {len(indices)} nodes; give one level per node")
        result = empty_batch(len(indices), self._parts.info.gist_width, self._parts.info.dim)
        for level in np.unique(levels).tolist():
            places = np.flatnonzero(levels == level)
            wanted, back = np.unique(np.asarray(indices)[places], return_inverse=True)
            rows = self._scattered(level, wanted)
            result.vectors[places] = rows.vectors[back]
            result.offsets[places] = rows.offsets[back]
            result.weights[places] = rows.weights[back]
        return result

    def _scattered(self, level: int, indices: npt.NDArray[np.int64]) -> GistBatch:
        """Rows of ascending, distinct nodes of one level."""
        level = self._level(level)
        num_nodes = self._num_nodes(level)
        span(int(indices[0]), int(indices[-1]) + 1, limit=num_nodes, of=f"nodes of level {level}")
        sealed = self._sealed_nodes(level)
        pieces = self._sealed_gists(level, runs_of(indices[indices < sealed]), self._parts.arrays.read_many)
        tail = indices[indices >= sealed].tolist()
        siblings = np.unique(np.asarray(self._rows.missing(level, tail), np.int64) // self._tree.block_tokens)
        for first, last in runs_of(siblings):  # whole sibling sets: few reads, and the rest is soon wanted too
            start, stop = max(sealed, first * self._tree.block_tokens), last * self._tree.block_tokens
            batch = join(self._unsealed_gists(level, start, min(stop, num_nodes)))
            self._rows.put(level, start, batch)
        for index in tail:
            row = self._rows.get(level, index)
            pieces.append(self.gists(level, index, index + 1) if row is None else row)
        return join(pieces)

    def _sealed_gists(self, level: int, runs: list[Span], read: ReadSpans) -> list[GistBatch]:
        if not runs:
            return []
        info = self._parts.info
        vectors = read(gist_spec(info, level), runs)
        metas = read(meta_spec(info, level), runs)
        return [
            GistBatch(
                vectors=np.asarray(rows, np.float16),
                offsets=np.asarray(meta[..., 0], np.float32),
                weights=np.asarray(meta[..., 1], np.float32),
            )
            for rows, meta in zip(vectors, metas, strict=True)
        ]

    def _unsealed_gists(self, level: int, start: int, stop: int) -> list[GistBatch]:
        """What the catalog holds of [start, stop), and the rest from wherever it went, in order."""
        pieces: list[GistBatch] = []
        position = start
        for first, batch in self._parts.catalog.gists(level, start, stop):
            pieces += self._absent_gists(level, position, first)
            pieces.append(batch)
            position = first + len(batch)
        return pieces + self._absent_gists(level, position, stop)

    def _absent_gists(self, level: int, start: int, stop: int) -> list[GistBatch]:
        """Rows that the catalog does not hold: sealed since this reader last looked, or never stored."""
        if start >= stop:
            return []
        fresh = self._parts.catalog.state()
        if fresh.sealed_nodes != self.state.sealed_nodes:
            self.state = _sealed_as(self.state, fresh)
        sealed = min(max(start, self._sealed_nodes(level)), stop)
        pieces = self._sealed_gists(level, [(start, sealed)] if start < sealed else [], self._scanned)
        return pieces + ([self.compute(level, sealed, stop)] if sealed < stop else [])

    def compute(self, level: int, start: int, stop: int) -> GistBatch:
        """Fresh gists of nodes [start, stop), whatever is stored of them; levels below are read."""
        gister = self._parts.gister()
        num_children = self._tree.block_tokens
        step = shard_nodes(self._parts.info) if level == 1 else max(1, shard_nodes(self._parts.info) // num_children)
        pieces = []
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if level == 1:
                begin, end = first * num_children, last * num_children
                context = max(0, begin // gister.window_tokens * gister.window_tokens - gister.context_tokens)
                tokens = self.tokens(context, end)
                pieces.append(gister.from_tokens(tokens, start=context, num_context=begin - context))
            else:
                children = self.gists(level - 1, first * num_children, last * num_children)
                pieces.append(gister.from_gists(children, level=level))
        return join(pieces)

    def _sealed_nodes(self, level: int) -> int:
        return self.state.sealed_nodes.get(level, 0)

    def _scanned(self, spec: ArraySpec, spans: Sequence[Span]) -> list[npt.NDArray[np.generic]]:
        """Long spans, shard by shard past the store's cache: what is read once must not push out what a session
        reads again and again, nor make a process grow with its history."""
        arrays = self._parts.arrays
        rows = []
        for start, stop in spans:
            pieces = []
            for shard in range(start // spec.shard_rows, -(-stop // spec.shard_rows)):
                first = shard * spec.shard_rows
                begin, end = max(start, first), min(stop, first + spec.shard_rows)
                if (end - begin) * _SCAN_SHARE >= spec.shard_rows:
                    pieces.append(arrays.read_shard(spec, shard)[begin - first : end - first])
                else:
                    pieces.append(arrays.read(spec, begin, end))
            rows.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        return rows

    # --- limits -------------------------------------------------------------------------------------------------

    def valid_span(self, start: int, stop: int) -> Span:
        """The same as ints; InvalidValueError unless ``[start, stop)`` lies within the tokens."""
        return span(start, stop, limit=self.num_tokens, of=TOKENS)

    def _num_nodes(self, level: int) -> int:
        """Complete nodes; the power of a level that nobody could fill is never worked out."""
        return self._tree.num_nodes(level, self.num_tokens) if level < self.num_levels else 0

    @staticmethod
    def _level(level: int) -> int:
        level = whole_number("level", level, least=None, most=None)
        if level < 1:
            raise InvalidValueError(f"level {shown(level)} has no gists; choose 1 or more, or read tokens (level 0)")
        return level


def _sealed_as(state: CatalogState, fresh: CatalogState) -> CatalogState:
    """The same length of history, with what is sealed as it is now."""
    return CatalogState(
        num_tokens=state.num_tokens,
        sealed_tokens=state.sealed_tokens,
        sealed_nodes=fresh.sealed_nodes,
        indexed_tokens=state.indexed_tokens,
        num_sources=state.num_sources,
    )
