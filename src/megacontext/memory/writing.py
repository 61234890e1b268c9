"""The one way into a memory: drafts of sources become tokens, provenance and index in one transaction.

Whatever completes a segment is written past the catalog as a whole shard before the transaction declares it sealed. So
the tail never holds a whole segment, a large source never passes through it, and a failure anywhere leaves the memory
as it was. A source that does not fit into memory comes in pieces, into one transaction that is open as long.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megacontext.errors import MemoryClosedError, MemoryLockedError, MemoryReadOnlyError
from megacontext.memory.lock import WriterLock
from megacontext.memory.parts import Parts
from megacontext.memory.passages import PassageCutter, next_passage_start
from megacontext.memory.reads import TreeReader
from megacontext.memory.segment_writer import SegmentWriter
from megacontext.memory.segments import unsourced
from megacontext.ports.catalog import CatalogState, CatalogWriter, Extent, Passage, Segment, Source

__all__ = ["Draft", "DraftPiece", "Writer"]

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


@dataclass(frozen=True, kw_only=True)
class DraftPiece:
    """The next tokens of a source that is made while it is committed, and the extents that ended; num_bytes: how much
    was read for them."""

    token_ids: npt.NDArray[np.uint32]
    extents: Sequence[Extent]
    num_bytes: int


class Writer:
    """Holds the lock and commits drafts; everything that it remembers between commits is bounded."""

    def __init__(self, parts: Parts, reader: TreeReader, lock: WriterLock, *, read_only: bool) -> None:
        self._parts = parts
        self._reader = reader
        self._lock = lock
        self._read_only = read_only
        self._closed = self._is_telling = False
        self._stale = True  # must look into the catalog before the next commit
        self.may_have_left = True  # shards past the catalog: a killed writer before this one, or an attempt that failed
        self._passages = PassageCutter(0, np.empty(0, np.uint32), parts.info.block_tokens, parts.codec)
        self.newest: Source | None = None

    def begin(self) -> None:
        """Take the lock, and see what others committed before.

        Raises: MemoryClosedError, MemoryReadOnlyError, MemoryMovedError, MemoryLockedError (also to whom an ingest
        tells how far it is).
        """
        self.claim()
        if self._stale:
            num_tokens = self._reader.refresh()
            K = self._parts.info.block_tokens
            start = min(next_passage_start(self._reader.state.indexed_tokens, K), num_tokens)
            pending = self._reader.tokens(start, num_tokens)
            self._passages = PassageCutter(start, pending, K, self._parts.codec)
            last = self._parts.catalog.extents(num_tokens - 1, num_tokens) if num_tokens else []
            self.newest = last[-1][0] if last else None
            self._stale = False

    def claim(self) -> None:
        """Take the lock without a look at the data, which may be damaged. Raises: as ``begin``."""
        if self._is_telling:
            raise _is_ingesting()
        if self._closed:
            raise MemoryClosedError("the memory was closed; open it again")
        if self._read_only:
            raise MemoryReadOnlyError("the memory was opened for reading only; open it for writing to change it")
        if not self._lock.held:
            self._lock.acquire()
            try:
                self._parts.siblings.require_newest()
            except BaseException:
                self._lock.release()
                raise

    def invalidate(self) -> None:
        """Look into the catalog again before the next commit (after a failure or a repair)."""
        self._stale = True

    def close(self) -> None:
        if self._is_telling:
            raise _is_ingesting()
        self._closed = True
        self._lock.release()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """While somebody is told how far an ingest is: whoever that is may read, and changes nothing."""
        self._is_telling = True
        try:
            yield
        finally:
            self._is_telling = False

    def commit(self, drafts: Sequence[Draft]) -> int:
        """All drafts or none of them; durable on return. The position of the first token.

        ``begin`` comes first. Returns where the new tokens start; the reader has moved on behind them.
        """
        try:
            return self._commit(drafts)
        except BaseException:
            self._stale = self.may_have_left = True
            raise

    def commit_pieces(
        self, source: Source, pieces: Iterator[DraftPiece], *, written: Callable[[int], None] | None = None
    ) -> None:
        """One source that is made meanwhile, whole or not at all; durable on return. ``begin`` comes first.

        source: all that is known of it before. Its blobs are stored by the time the last piece was given. written:
        told how many segments there are, with those that are not declared yet.
        Raises: whatever the pieces do.
        """
        try:
            self._commit_pieces(source, pieces, written or (lambda num_segments: None))
        except BaseException:
            self._stale = self.may_have_left = True
            raise

    def _commit(self, drafts: Sequence[Draft]) -> int:
        start = self._reader.num_tokens
        spans = list(itertools.accumulate((len(draft.token_ids) for draft in drafts), initial=start))
        blobs = [blob for draft in drafts for blob in draft.blobs]
        if blobs:
            self._parts.blobs.put_many(blobs)
        segments, rest = self._write_segments(drafts)
        with self._parts.catalog.write() as writer:
            _seal(writer, segments)
            if len(rest):
                writer.append_tail(spans[-1] - len(rest), rest)
            newest = self.newest
            for draft, position in zip(drafts, spans, strict=False):
                newest = self._placed(draft, position)
                if draft.continues:
                    writer.extend_source(draft.continues, token_stop=newest.token_stop, num_bytes=newest.num_bytes)
                    continue
                newest = dataclasses.replace(newest, source_id=writer.add_source(newest))
                _add_extents(writer, newest, draft.extents)
            passages = itertools.chain.from_iterable(self._passages.add(draft.token_ids) for draft in drafts)
            indexed = _add_passages(writer, passages)
        num_sources = sum(not draft.continues for draft in drafts)
        self._advance(newest, spans[-1], num_segments=len(segments), indexed=indexed, num_sources=num_sources)
        return start

    def _commit_pieces(self, source: Source, pieces: Iterator[DraftPiece], written: Callable[[int], None]) -> None:
        sealed, start = self._reader.state.sealed_tokens, self._reader.num_tokens
        size = self._parts.info.segment_tokens
        segment_writer = self._segment_writer()
        stop, num_segments, indexed = start, sealed // size, 0
        has_source = bool(source.raw_digest)
        with self._parts.catalog.write() as writer:
            newest = dataclasses.replace(source, token_start=start, token_stop=start)
            newest = dataclasses.replace(newest, source_id=writer.add_source(newest))
            for piece in pieces:
                _add_extents(writer, newest, piece.extents)
                indexed = _add_passages(writer, self._passages.add(piece.token_ids)) or indexed
                num_segments += _seal(writer, segment_writer.add(piece.token_ids, has_source=has_source))
                stop += len(piece.token_ids)
                written(num_segments)
            segments, rest = segment_writer.finish()
            num_segments += _seal(writer, segments)
            first = max(start, num_segments * size)
            if first < stop:
                writer.append_tail(first, rest[first - stop :])
            newest = dataclasses.replace(newest, token_stop=stop)
            writer.extend_source(newest.source_id, token_stop=stop, num_bytes=newest.num_bytes)
        self._advance(newest, stop, num_segments=num_segments - sealed // size, indexed=indexed, num_sources=1)

    def _advance(
        self, newest: Source | None, num_tokens: int, *, num_segments: int, indexed: int, num_sources: int
    ) -> None:
        """Remember what was committed. indexed: 0 if no passage was added."""
        state = self._reader.state
        self._reader.state = CatalogState(
            num_tokens=num_tokens,
            sealed_tokens=state.sealed_tokens + num_segments * self._parts.info.segment_tokens,
            sealed_nodes=state.sealed_nodes,
            indexed_tokens=indexed or state.indexed_tokens,
            num_sources=state.num_sources + num_sources,
        )
        self.newest = newest

    def _placed(self, draft: Draft, position: int) -> Source:
        """The draft's source at its place in the history."""
        stop = position + len(draft.token_ids)
        if not draft.continues:
            return dataclasses.replace(draft.source, token_start=position, token_stop=stop)
        num_bytes = draft.source.num_bytes + draft.token_ids.nbytes
        return dataclasses.replace(draft.source, token_stop=stop, num_bytes=num_bytes)

    # --- segments -----------------------------------------------------------------------------------------------

    def _write_segments(self, drafts: Sequence[Draft]) -> tuple[list[Segment], npt.NDArray[np.uint32]]:
        """Write shards of the segments that become whole; what the transaction has to declare, and the new tokens
        behind."""
        state = self._reader.state
        num_new = sum(len(draft.token_ids) for draft in drafts)
        if state.num_tokens + num_new - state.sealed_tokens < self._parts.info.segment_tokens:
            return [], np.concatenate([draft.token_ids for draft in drafts])
        writer, segments = self._segment_writer(), []
        for draft in drafts:
            segments += writer.add(draft.token_ids, has_source=bool(draft.source.raw_digest))
        last, rest = writer.finish()
        return segments + last, rest

    def _segment_writer(self) -> SegmentWriter:
        """For the tokens that follow the tail."""
        sealed, start = self._reader.state.sealed_tokens, self._reader.num_tokens
        spans = list(unsourced(self._parts.catalog, sealed, start)) if sealed < start else []
        return SegmentWriter(self._parts, sealed, self._reader.tokens(sealed, start), spans)


def _is_ingesting() -> MemoryLockedError:
    return MemoryLockedError(
        "the memory is in the middle of the ingest whose progress this is; change or close it when the ingest has "
        "returned, or raise an exception to stop that"
    )


def _seal(writer: CatalogWriter, segments: Sequence[Segment]) -> int:
    """Declare segments; how many they are."""
    for segment in segments:
        writer.seal(segment)
    return len(segments)


def _add_extents(writer: CatalogWriter, source: Source, extents: Sequence[Extent]) -> None:
    """Put extents where their source is."""
    for extent in extents:
        writer.add_extent(
            dataclasses.replace(
                extent,
                source_id=source.source_id,
                token_start=source.token_start + extent.token_start,
                token_stop=source.token_start + extent.token_stop,
            )
        )


def _add_passages(writer: CatalogWriter, passages: Iterator[Passage]) -> int:
    """Index passages; where the last one ends, 0 if there are none."""
    indexed = 0
    while batch := list(itertools.islice(passages, _PASSAGES_PER_CALL)):
        writer.add_passages(batch)
        indexed = batch[-1].token_stop
    return indexed
