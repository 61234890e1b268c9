"""Forgetting a source: its bytes, its text, its words in the index, its name, and what its tokens left in the gists.

Positions stay, or every span that anybody wrote down would move: the tokens become line ends. Order matters, because a
crash may come at any moment: the source keeps its name until everything else of it is gone, so that erasing it again
finishes the work; traces in the catalog's own files, which come last, go with the next change. Every step leaves a
memory that reads well; one that fails before the tokens are gone is undone. What nobody names may be of the source,
too: a blob of the tokens that an erasure replaced before it died, or what a killed ingest had made of a version.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacontext.documents.document import name_of
from megacontext.errors import InvalidValueError, MegaContextError, StorageError
from megacontext.memory.gist_rows import meta_rows
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes, token_spec
from megacontext.memory.lock import RewriteLock
from megacontext.memory.orphans import Orphans
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.repair import Repairer
from megacontext.memory.segments import token_bytes, token_digest, unsourced
from megacontext.memory.writing import Writer
from megacontext.ports.catalog import Segment, Source
from megacontext.values import name_of_source

__all__ = ["NEUTRAL_TEXT", "EraseReport", "Eraser"]

NEUTRAL_TEXT = "\n"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EraseReport:
    """What was forgotten. shared_with: other sources with the same bytes, which keep them."""

    num_sources: int
    num_tokens: int
    shared_with: tuple[str, ...]
    seconds: float


class Eraser:
    """Erases sources of one memory. lock: keeps copies of half of it from being made."""

    def __init__(self, parts: Parts, reader: TreeReader, writer: Writer, lock: RewriteLock) -> None:
        self._lock = lock
        self._repairer = Repairer(parts, reader)
        self._orphans = Orphans(parts, reader)
        self._parts = parts
        self._reader = reader
        self._writer = writer
        self._tree = parts.tree

    def erase(self, name: str) -> EraseReport:
        """Forget every version of the source with this uri or path.

        Raises: InvalidValueError if there is none, MemoryLockedError (somebody writes, exports or checks),
            MemoryReadOnlyError, StorageError.
        """
        began = time.perf_counter()
        name = name_of_source(name)  # to the catalog None means all of them
        self._writer.begin()
        sources = self._find(name)
        with self._lock.alone():
            self._parts.siblings.erase(sources[0].uri)  # first: the name here is what erasing it again goes by
            shared_with = self._forget(name, sources)
        return EraseReport(
            num_sources=len(sources),
            num_tokens=sum(source.token_stop - source.token_start for source in sources),
            shared_with=shared_with,
            seconds=time.perf_counter() - began,
        )

    def _forget(self, name: str, sources: Sequence[Source]) -> tuple[str, ...]:
        """The work itself; the uris of other sources that keep the same bytes."""
        doomed = {digest for source in sources for digest in (source.raw_digest, source.text_digest)}
        doomed |= self._rewrite_tokens(sources)
        try:
            shared_with = self._forget_what_came_of_it(doomed, sources)
        except StorageError as error:
            raise type(error)(
                f"{name_of(name)} is erased only in part ({_reason(error)}); erase it again to finish"
            ) from error
        finally:
            self._writer.invalidate()
        try:
            self._parts.catalog.compact()
        except StorageError as error:
            raise type(error)(
                f"{name_of(name)} is erased, but the catalog may still hold traces of it ({_reason(error)}); "
                "the next change of the memory removes that"
            ) from error
        finally:
            self._reader.refresh()
        return shared_with

    def _forget_what_came_of_it(self, doomed: set[str], sources: Sequence[Source]) -> tuple[str, ...]:
        for source in sources:
            self._recompute_gists(source.token_start, source.token_stop)
        self._repairer.rebuild_index()
        shared_with = self._delete_blobs(doomed, sources)
        self._orphans.remove()
        with self._parts.catalog.write() as writer:
            for source in sources:
                writer.erase_source(source.source_id)
        return shared_with

    def _find(self, name: str) -> list[Source]:
        sources = self._parts.catalog.sources(uri=name)
        if not sources and "://" not in name:
            with suppress(OSError, RuntimeError, ValueError):  # a name that could not be a file's
                # as an ingest names it, with the links in it
                as_ingested = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100
                sources = self._parts.catalog.sources(uri=as_ingested.as_uri())
        if not sources:
            raise InvalidValueError(f"there is no source {name!r}; `megacontext sources` lists them")
        return sources

    # --- tokens ---------------------------------------------------------------------------------------------------

    def _rewrite_tokens(self, sources: Sequence[Source]) -> set[str]:
        """Neutral tokens in shards and tail, in one transaction with the segments' digests; blobs nobody needs now.

        The index goes with them: it has the words, and that it is missing tells others of an erasure that is not done.
        """
        size = self._parts.info.segment_tokens
        sealed = self._reader.state.sealed_tokens
        segments = {segment.segment: segment for segment in self._parts.catalog.segments()}
        touched = sorted({n for s in sources for n in range(s.token_start // size, -(-s.token_stop // size))})
        resealed: list[Segment] = []
        try:
            for number in touched:
                if (number + 1) * size <= sealed:
                    resealed.append(self._neutral_segment(number, sources))
            with self._parts.catalog.write() as writer:
                for segment in resealed:
                    writer.reseal(segment)
                for source in sources:
                    start = max(source.token_start, sealed)
                    if start < source.token_stop:
                        neutral = np.full(source.token_stop - start, self._neutral, dtype=np.uint32)
                        writer.replace_tail(start, neutral)
                writer.drop_index()
        except BaseException:
            self._put_back(touched[: len(resealed) + 1])
            raise
        finally:
            self._writer.invalidate()
            self._reader.refresh()
            self._reader.forget()
        return {segments[segment.segment].raw_digest for segment in resealed}

    def _neutral_segment(self, number: int, sources: Sequence[Source]) -> Segment:
        """Rewrite a sealed segment without the sources' tokens; what the catalog has to know of it."""
        size = self._parts.info.segment_tokens
        first, last = number * size, (number + 1) * size
        tokens = self._reader.tokens(first, last).copy()
        for source in sources:
            tokens[max(0, source.token_start - first) : max(0, source.token_stop - first)] = self._neutral
        self._parts.arrays.write_shard(token_spec(self._parts.info), number, tokens)
        erased_ids = {source.source_id for source in sources}
        spans = unsourced(self._parts.catalog, first, last, erased_ids=erased_ids)
        raw = token_bytes([tokens[start - first : stop - first] for start, stop in spans])
        return Segment(segment=number, digest=token_digest(tokens), raw_digest=self._parts.blobs.put(raw))

    def _put_back(self, numbers: Sequence[int]) -> None:
        """After a failure, the segments that were rewritten as the catalog still knows them."""
        sealed = self._parts.catalog.state().sealed_tokens // self._parts.info.segment_tokens
        for number in numbers:
            if number < sealed:
                try:
                    self._repairer.rewrite_tokens(number)
                except MegaContextError as error:
                    _log.warning("tokens of segment %d are not put back (%s); run 'check --repair'", number, error)

    @property
    def _neutral(self) -> int:
        return int(self._parts.codec.encode(NEUTRAL_TEXT).token_ids[0])

    # --- what came from the tokens --------------------------------------------------------------------------------

    def _recompute_gists(self, start: int, stop: int) -> None:
        """Every gist that saw a token of ``[start, stop)``: level 1 as far as the gister's context reaches."""
        gister = self._parts.gister()
        reach = ((stop + gister.context_tokens - 1) // gister.window_tokens + 1) * gister.window_tokens
        for level in range(1, self._tree.num_levels(self._reader.num_tokens)):
            width = self._tree.width(level)
            first = start // width
            last = min(-(-max(stop, reach) // width), self._tree.num_nodes(level, self._reader.num_tokens))
            sealed = self._reader.state.sealed_nodes.get(level, 0)
            for begin in range(first, last, shard_nodes(self._parts.info)):
                self._replace_gists(level, begin, min(begin + shard_nodes(self._parts.info), last), sealed)
            self._reader.forget()

    def _replace_gists(self, level: int, first: int, last: int, sealed: int) -> None:
        info, size = self._parts.info, shard_nodes(self._parts.info)
        fresh = self._reader.compute(level, first, last)
        for shard in range(first // size, -(-min(last, sealed) // size)):
            origin = shard * size
            begin, end = max(first, origin), min(last, origin + size)
            for spec, rows in ((gist_spec(info, level), fresh.vectors), (meta_spec(info, level), meta_rows(fresh))):
                whole = np.array(self._parts.arrays.read_shard(spec, shard))
                whole[begin - origin : end - origin] = rows[begin - first : end - first]
                self._parts.arrays.write_shard(spec, shard, whole)
        if last > sealed:
            with self._parts.catalog.write() as writer:
                writer.put_gists(level, max(first, sealed), fresh[max(0, sealed - first) :])

    def _delete_blobs(self, doomed: set[str], erased: Sequence[Source]) -> tuple[str, ...]:
        """Delete what only the erased sources referred to; the uris of others that keep the same bytes."""
        erased_ids = {source.source_id for source in erased}
        others = [source for source in self._parts.catalog.sources() if source.source_id not in erased_ids]
        kept = {segment.raw_digest for segment in self._parts.catalog.segments()}
        kept |= {digest for source in others for digest in (source.raw_digest, source.text_digest)}
        kept |= self._parts.siblings.named_digests() or set()
        for digest in sorted(doomed - kept - {""}):
            self._parts.blobs.delete(digest)
        shared = doomed & kept - {""}
        return tuple(sorted({s.uri for s in others if shared & {s.raw_digest, s.text_digest}}))


def _reason(error: StorageError) -> str:
    return str(error).partition(";")[0]
