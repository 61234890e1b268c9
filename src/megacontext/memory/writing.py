"""The one way into a memory: drafts of sources become tokens, provenance and index in one transaction.

Whatever completes a segment is written past the catalog as a whole shard before that transaction, which then
declares it sealed; a shard that a failed attempt left behind is overwritten by the next. So the tail never holds a
whole segment, a large source never passes through it, and a failure anywhere leaves the memory as it was.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megacontext.errors import MemoryClosedError, MemoryReadOnlyError
from megacontext.memory.layout import token_spec
from megacontext.memory.lock import WriterLock
from megacontext.memory.parts import Parts
from megacontext.memory.passages import STRIDE_BLOCKS, next_passage_start, passages_from
from megacontext.memory.reads import TreeReader
from megacontext.memory.segments import token_bytes, token_digest, unsourced
from megacontext.memory.shards import WRITE_AHEAD, ShardRows, write_shards
from megacontext.ports.catalog import CatalogState, Extent, Passage, Segment, Source

__all__ = ["Draft", "Writer"]

_PASSAGES_PER_CALL = 256


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A source ready to be committed; its positions and those of its extents are relative to its first token.

    blobs: bytes that the source's digests name, to be stored before the transaction. continues: id of the newest
    source, which this one extends; 0 for a source of its own.
    """

    source: Source
    token_ids: npt.NDArray[np.uint32]
    extents: Sequence[Extent] = field(default_factory=tuple)
    blobs: Sequence[bytes] = field(default_factory=tuple)
    continues: int = 0


class Writer:
    """Holds the lock and commits drafts; everything that it remembers between commits is bounded."""

    def __init__(self, parts: Parts, reader: TreeReader, lock: WriterLock, *, read_only: bool) -> None:
        self._parts = parts
        self._reader = reader
        self._lock = lock
        self._read_only = read_only
        self._closed = False
        self._stale = True  # must look into the catalog before the next commit
        self._unindexed = np.empty(0, np.uint32)  # tokens from the next passage's start on
        self.newest: Source | None = None

    def begin(self) -> None:
        """Take the lock, and see what others committed before.

        Raises: MemoryClosedError, MemoryReadOnlyError, MemoryLockedError.
        """
        self.claim()
        if self._stale:
            num_tokens = self._reader.refresh()
            start = next_passage_start(self._reader.state.indexed_tokens, self._parts.info.block_tokens)
            self._unindexed = self._reader.tokens(min(start, num_tokens), num_tokens)
            last = self._parts.catalog.extents(num_tokens - 1, num_tokens) if num_tokens else []
            self.newest = last[-1][0] if last else None
            self._stale = False

    def claim(self) -> None:
        """Take the lock without a look at the data, which may be damaged."""
        if self._closed:
            raise MemoryClosedError("the memory was closed; open it again")
        if self._read_only:
            raise MemoryReadOnlyError("the memory was opened for reading only; open it for writing to change it")
        self._lock.acquire()

    def invalidate(self) -> None:
        """Look into the catalog again before the next commit (after a failure or a repair)."""
        self._stale = True

    def close(self) -> None:
        self._closed = True
        self._lock.release()

    def commit(self, drafts: Sequence[Draft]) -> int:
        """All drafts or none of them; durable on return. The position of the first token.

        ``begin`` comes first. Returns where the new tokens start; the reader has moved on behind them.
        """
        try:
            return self._commit(drafts)
        except BaseException:
            self._stale = True
            raise

    def _commit(self, drafts: Sequence[Draft]) -> int:
        state = self._reader.state
        start = state.num_tokens
        spans = list(itertools.accumulate((len(draft.token_ids) for draft in drafts), initial=start))
        stop = spans[-1]
        blobs = [blob for draft in drafts for blob in draft.blobs]
        if blobs:
            self._parts.blobs.put_many(blobs)
        segments = self._write_segments(drafts, start, stop)
        sealed = state.sealed_tokens + len(segments) * self._parts.info.segment_tokens
        rest = _tokens_between(drafts, start, max(start, sealed), stop)
        with self._parts.catalog.write() as writer:
            for segment in segments:
                writer.seal(segment)
            if len(rest):
                writer.append_tail(max(start, sealed), rest)
            newest = self.newest
            for draft, position in zip(drafts, spans, strict=False):
                newest = self._placed(draft, position)
                if draft.continues:
                    writer.extend_source(draft.continues, token_stop=newest.token_stop, num_bytes=newest.num_bytes)
                    continue
                source_id = writer.add_source(newest)
                newest = dataclasses.replace(newest, source_id=source_id)
                for extent in draft.extents:
                    writer.add_extent(
                        dataclasses.replace(
                            extent,
                            source_id=source_id,
                            token_start=position + extent.token_start,
                            token_stop=position + extent.token_stop,
                        )
                    )
            indexed = state.indexed_tokens
            passages = self._passages(drafts)
            while batch := list(itertools.islice(passages, _PASSAGES_PER_CALL)):
                writer.add_passages(batch)
                indexed = batch[-1].token_stop
        self._advance(drafts, newest, sealed=sealed, indexed=indexed)
        return start

    def _advance(self, drafts: Sequence[Draft], newest: Source | None, *, sealed: int, indexed: int) -> None:
        """Remember what was committed."""
        state = self._reader.state
        num_new = sum(len(draft.token_ids) for draft in drafts)
        num_sources = sum(not draft.continues for draft in drafts)
        self._reader.state = CatalogState(
            num_tokens=state.num_tokens + num_new,
            sealed_tokens=sealed,
            sealed_nodes=state.sealed_nodes,
            indexed_tokens=indexed,
            num_sources=state.num_sources + num_sources,
        )
        self.newest = newest
        keep = self._reader.num_tokens - next_passage_start(indexed, self._parts.info.block_tokens)
        parts = [self._unindexed, *(draft.token_ids[-keep:] for draft in drafts if keep)]
        self._unindexed = np.concatenate(parts)[-keep:].copy() if keep else np.empty(0, np.uint32)

    def _placed(self, draft: Draft, position: int) -> Source:
        """The draft's source at its place in the history."""
        stop = position + len(draft.token_ids)
        if not draft.continues:
            return dataclasses.replace(draft.source, token_start=position, token_stop=stop)
        num_bytes = draft.source.num_bytes + draft.token_ids.nbytes
        return dataclasses.replace(draft.source, token_stop=stop, num_bytes=num_bytes)

    def _passages(self, drafts: Sequence[Draft]) -> Iterator[Passage]:
        """Passages that the drafts complete, without a copy of all their tokens."""
        K, step = self._parts.info.block_tokens, self._parts.info.segment_tokens
        start = next_passage_start(self._reader.state.indexed_tokens, K)
        pending = self._unindexed
        for draft in drafts:
            for first in range(0, len(draft.token_ids), step):
                pending = np.concatenate([pending, draft.token_ids[first : first + step]])
                passage = None
                for passage in passages_from(pending, start, K, self._parts.codec):
                    yield passage
                if passage is not None:
                    done = passage.token_start + STRIDE_BLOCKS * K - start
                    pending, start = pending[done:], start + done

    # --- segments -----------------------------------------------------------------------------------------------

    def _write_segments(self, drafts: Sequence[Draft], start: int, stop: int) -> list[Segment]:
        """Write shards of the segments that become whole; what the transaction has to declare."""
        size = self._parts.info.segment_tokens
        sealed = self._reader.state.sealed_tokens
        if stop - sealed < size:
            return []
        spec = token_spec(self._parts.info)
        tail = self._reader.tokens(sealed, start)
        unsourced_spans = self._unsourced_spans(drafts, sealed, start)
        segments: list[Segment] = []
        shards: list[ShardRows] = []
        for first in range(sealed, stop - size + 1, size):
            last = first + size
            head = tail[first - sealed : min(last, start) - sealed] if first < start else tail[:0]
            tokens = np.concatenate([head, _tokens_between(drafts, start, max(first, start), last)])
            raw_digest = self._put_raw(tokens, first, unsourced_spans)
            segments.append(Segment(segment=first // size, digest=token_digest(tokens), raw_digest=raw_digest))
            shards.append((spec, first // size, tokens))
            if len(shards) == WRITE_AHEAD or last + size > stop:
                write_shards(self._parts.arrays, shards)
                shards = []
        return segments

    def _unsourced_spans(self, drafts: Sequence[Draft], sealed: int, start: int) -> list[tuple[int, int]]:
        """Token ranges from ``sealed`` on that have no raw source but themselves."""
        spans = list(unsourced(self._parts.catalog, sealed, start)) if sealed < start else []
        for draft in drafts:
            if not draft.source.raw_digest:
                spans.append((start, start + len(draft.token_ids)))
            start += len(draft.token_ids)
        return spans

    def _put_raw(self, tokens: npt.NDArray[np.uint32], first: int, spans: Sequence[tuple[int, int]]) -> str:
        """Keep tokens that have no other raw source as a blob; its digest, '' if there are none."""
        size = len(tokens)
        within = [(max(start, first) - first, min(stop, first + size) - first) for start, stop in spans]
        pieces = [tokens[start:stop] for start, stop in within if start < stop]
        if not pieces:
            return ""
        return self._parts.blobs.put(token_bytes(pieces))


def _tokens_between(drafts: Sequence[Draft], origin: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Tokens [start, stop) of the drafts laid end to end from ``origin`` on."""
    pieces = [np.empty(0, np.uint32)]
    position = origin
    for draft in drafts:
        end = position + len(draft.token_ids)
        if position < stop and start < end:
            pieces.append(draft.token_ids[max(0, start - position) : stop - position])
        position = end
    return np.concatenate(pieces)
