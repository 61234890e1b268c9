"""Everything that comes in: tokens, texts, files and folders.

One source is whole or absent. Small ones share a transaction, since a sync costs more than their tokens; a long text
file has one for itself and passes through it in pieces. While one group (or piece) is committed, the next is read and
encoded in a thread of its own, and the gists of what is there already are made in another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import IO

import numpy.typing as npt

from megacontext.documents.discovery import discover
from megacontext.errors import InvalidValueError, MegaContextError, SourceError
from megacontext.memory.ahead import one_ahead
from megacontext.memory.arrivals import Arrivals, Group, LongSource
from megacontext.memory.drafting import Drafter, IngestRequest, text_document
from megacontext.memory.gists_ahead import GistsAhead
from megacontext.memory.intake import size_of_file, valid_token_ids
from megacontext.memory.orphans import Orphans
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import IngestReport
from megacontext.memory.sealing import GistKeeper
from megacontext.memory.tally import IngestTally
from megacontext.memory.writing import Draft, DraftPiece, Writer
from megacontext.values import name_of_source
from megacontext.values import text as valid_text

__all__ = ["Ingestor"]

_log = logging.getLogger(__name__)
_DECLARE_SHARDS = 16  # of gists, between two transactions, so that a long ingest keeps what it has made
_SHOW_SECONDS = 0.2


class Ingestor:
    """Turns what users give into drafts for the writer, and keeps the gists behind it."""

    def __init__(self, parts: Parts, reader: TreeReader, writer: Writer, keeper: GistKeeper) -> None:
        self._parts = parts
        self._reader = reader
        self._writer = writer
        self._keeper = keeper
        self._drafter = Drafter(parts)
        self._orphans = Orphans(parts, reader)
        self._keep_from = 0  # no more attempts to keep gists before the history is this long

    # --- tokens and turns ---------------------------------------------------------------------------------------

    def tokens(self, token_ids: npt.ArrayLike, *, source: str, role: str) -> int:
        """Append tokens as such; the position of the first."""
        source, role = name_of_source(source), valid_text("role", role)
        tokens = valid_token_ids(token_ids, self._parts.info.vocab_size)
        self._begin()
        start = self._writer.commit([self._drafter.tokens(tokens, source, role, self._writer.newest)])
        self._keep_some()
        return start

    def turn(self, text: str, source: str, request: IngestRequest) -> tuple[int, int]:
        """Append a short text, even if the source said the same before; its token range."""
        document = text_document(text, source)
        self._begin()
        try:
            start = self._writer.commit([self._drafter.document(document, request)])
        finally:
            self._drafter.forget()
        self._keep_some()
        return start, self._reader.num_tokens

    # --- texts, files, folders ----------------------------------------------------------------------------------

    def text(self, text: str | IO[bytes], source: str, request: IngestRequest) -> IngestReport:
        """Ingest one text, or what is in an open file, under a name."""
        if not isinstance(text, str) and hasattr(text, "fileno"):
            return self._file(text, source, request)
        document = text_document(text, source)
        self._begin()
        tally = IngestTally(request.progress, telling=self._writer.telling, num_bytes=len(document.raw))
        arrivals = Arrivals(self._parts, self._drafter, request, tally)
        return self._run(arrivals.grouped(iter([document])), tally)

    def _file(self, given: IO[bytes], source: str, request: IngestRequest) -> IngestReport:
        name_of_source(source)
        num_bytes = size_of_file(given)
        self._begin()
        tally = IngestTally(request.progress, num_bytes=num_bytes)
        arrivals = Arrivals(self._parts, self._drafter, request, tally)
        return self._run(arrivals.grouped(arrivals.opened(given, source)), tally)

    def paths(self, paths: Sequence[str], request: IngestRequest) -> IngestReport:
        """Ingest files and folders."""
        if not paths:
            raise InvalidValueError("there is nothing to ingest (0 paths); name at least one file or folder")
        found = discover(paths)
        self._begin()
        tally = IngestTally(request.progress, telling=self._writer.telling, paths=paths)
        arrivals = Arrivals(self._parts, self._drafter, request, tally)
        return self._run(arrivals.grouped(arrivals.documents(found)), tally)

    def made(self, groups: Iterator[Group], tally: IngestTally) -> IngestReport:
        """Commit groups that somebody else drafts."""
        self._begin()
        return self._run(groups, tally)

    def _begin(self) -> None:
        """Take the lock; here and only here nothing is being written past the catalog."""
        self._writer.begin()
        if self._writer.may_have_left:
            self._orphans.clear_way()
            self._writer.may_have_left = False

    def _run(self, groups: Iterator[Group], tally: IngestTally) -> IngestReport:
        """Ingest, or give back the space of what could not be."""
        try:
            return self._ingested(groups, tally)
        except BaseException:
            with suppress(MegaContextError):  # the next change tries again
                self._begin()
            raise

    def _ingested(self, groups: Iterator[Group], tally: IngestTally) -> IngestReport:
        """Commit documents group by group, and keep their gists."""
        start = self._reader.num_tokens
        with tally, self._keeper.ahead() as ahead:
            try:
                for group in one_ahead(groups, waits_for=lambda group: isinstance(group, LongSource)):
                    if isinstance(group, LongSource):
                        self._commit_long(group, tally, ahead, start)
                    elif group:
                        self._commit(group, tally, ahead)
                    self._count_gists(ahead, start, tally)
                if tally.relabelled or tally.described:
                    with self._parts.catalog.write() as writer:
                        for source_id, key, value in tally.relabelled:
                            writer.set_label(source_id, key, value)
                        for source_id, said in tally.described:
                            writer.describe_source(source_id, **said)
            finally:
                self._drafter.forget()
            while not ahead.wait(_SHOW_SECONDS):
                self._count_gists(ahead, start, tally)
        return tally.report(self._keep_all(ahead, start, tally))

    def _commit(self, group: list[Draft], tally: IngestTally, ahead: GistsAhead) -> None:
        self._writer.commit(group)
        ahead.allow(self._num_segments)
        tally.num_sources += len(group)
        tally.num_tokens += sum(len(draft.token_ids) for draft in group)
        tally.num_bytes += sum(draft.source.num_bytes for draft in group)
        tally.uri = group[-1].source.uri

    def _commit_long(self, long: LongSource, tally: IngestTally, ahead: GistsAhead, start: int) -> None:
        """Commit a source while it is read; if that fails, nothing of it stays. start: of the whole ingest."""
        num_tokens, num_bytes = tally.num_tokens, tally.num_bytes
        tally.uri = long.uri

        def counted(pieces: Iterator[DraftPiece]) -> Iterator[DraftPiece]:
            for piece in pieces:
                yield piece
                tally.num_tokens += len(piece.token_ids)
                tally.num_bytes += piece.num_bytes
                tally.num_gist_tokens = self._gist_tokens(ahead, start)
                tally.show()

        source = long.source()
        try:
            with closing(long.pieces()) as made, closing(one_ahead(made)) as pieces:
                self._writer.commit_pieces(source, counted(pieces), written=ahead.allow)
        except SourceError as error:
            if long.named or error is tally.watch_error:
                raise
            self._writer.begin()
            ahead.forget(self._num_segments)
            tally.fail(long.uri, error)
            tally.num_tokens, tally.num_bytes = num_tokens, num_bytes + long.num_bytes
            return
        ahead.allow(self._num_segments)
        tally.num_sources += 1

    @property
    def _num_segments(self) -> int:
        """Segments that are committed."""
        return self._reader.state.sealed_tokens // self._parts.info.segment_tokens

    # --- gists --------------------------------------------------------------------------------------------------

    def _keep_some(self) -> None:
        """After an append: keep the gists that are due. They are derived, so that a failure only defers them."""
        if self._reader.num_tokens >= self._keep_from and self._keeper.is_due():
            self._try(self._keeper.catch_up)

    def _count_gists(self, ahead: GistsAhead, start: int, tally: IngestTally) -> None:
        """See how many gists were made ahead, and tell."""
        tally.num_gist_tokens = self._gist_tokens(ahead, start)
        if ahead.num_made - self._keeper.num_shards >= _DECLARE_SHARDS:
            self._try(lambda: self._keeper.declare(ahead.num_made))
            self._writer.begin()
        tally.show()

    def _gist_tokens(self, ahead: GistsAhead, start: int) -> int:
        """Of how many tokens behind ``start`` the gists of level 1 are made."""
        return max(0, ahead.num_made * self._parts.info.segment_tokens - start)

    def _keep_all(self, ahead: GistsAhead, start: int, tally: IngestTally) -> str:
        def kept(num_tokens: int) -> None:
            tally.num_gist_tokens = max(0, num_tokens - start)
            tally.show()

        def keep() -> None:
            self._keeper.declare(ahead.num_made)
            self._keeper.keep_all(kept, ahead.parents)
            kept(self._reader.num_tokens)

        deferred = self._try(keep)
        if tally.watch_error is not None:
            raise tally.watch_error
        return deferred

    def _try(self, keep: Callable[[], None]) -> str:
        try:
            keep()
        except MegaContextError as error:
            _log.warning("gists are not stored yet, they are computed when needed: %s", error)
            self._keep_from = self._reader.num_tokens + self._parts.info.segment_tokens
            self._writer.invalidate()
            return str(error)
        return ""
