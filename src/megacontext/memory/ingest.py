"""Everything that comes in: tokens, texts, files and folders.

One source is whole or absent. Small ones share a transaction, since a sync costs more than their tokens. While one
group of sources is committed, the next is read and encoded in a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy.typing as npt

from megacontext.documents.decoding import without_surrogates
from megacontext.documents.discovery import Found, discover
from megacontext.documents.document import Document
from megacontext.documents.loading import load, read_bytes
from megacontext.documents.registry import is_document
from megacontext.errors import InvalidValueError, MegaContextError, NotTextError, SourceError
from megacontext.memory.drafting import Drafter, IngestRequest, text_document
from megacontext.memory.intake import valid_token_ids
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import IngestFailure, IngestReport
from megacontext.memory.sealing import GistKeeper
from megacontext.memory.writing import Draft, Writer
from megacontext.units import MIB
from megacontext.values import name_of_source
from megacontext.values import text as valid_text

__all__ = ["Ingestor"]

_log = logging.getLogger(__name__)
_GROUP_SEGMENTS = 2  # tokens that wait for a transaction, in segments
_GROUP_DRAFTS = 512
_GROUP_BYTES = 64 * MIB  # of originals: a page of a PDF may weigh a thousand times its text


class _Tally:
    """The report while it is being made."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.num_sources = self.num_tokens = self.num_unchanged = self.num_binary = 0
        self.failures: list[IngestFailure] = []
        self.relabelled: list[tuple[int, str, str]] = []

    def report(self, deferred: str) -> IngestReport:
        return IngestReport(
            num_sources=self.num_sources,
            num_tokens=self.num_tokens,
            seconds=time.perf_counter() - self.started,
            num_unchanged=self.num_unchanged,
            num_binary=self.num_binary,
            failures=tuple(self.failures),
            deferred=deferred,
        )


class Ingestor:
    """Turns what users give into drafts for the writer, and keeps the gists behind it."""

    def __init__(self, parts: Parts, reader: TreeReader, writer: Writer, keeper: GistKeeper) -> None:
        self._parts = parts
        self._reader = reader
        self._writer = writer
        self._keeper = keeper
        self._drafter = Drafter(parts)
        self._keep_from = 0  # no more attempts to keep gists before the history is this long

    # --- tokens and turns ---------------------------------------------------------------------------------------

    def tokens(self, token_ids: npt.ArrayLike, *, source: str, role: str) -> int:
        """Append tokens as such; the position of the first."""
        source, role = name_of_source(source), valid_text("role", role)
        tokens = valid_token_ids(token_ids, self._parts.info.vocab_size)
        self._writer.begin()
        start = self._writer.commit([self._drafter.tokens(tokens, source, role, self._writer.newest)])
        self._keep_some()
        return start

    def turn(self, text: str, source: str, request: IngestRequest) -> tuple[int, int]:
        """Append a short text, even if the source said the same before; its token range."""
        document = text_document(text, source)
        self._writer.begin()
        try:
            start = self._writer.commit([self._drafter.document(document, request)])
        finally:
            self._drafter.forget()
        self._keep_some()
        return start, self._reader.num_tokens

    # --- texts, files, folders ----------------------------------------------------------------------------------

    def text(self, text: str, source: str, request: IngestRequest) -> IngestReport:
        """Ingest one text under a name."""
        document = text_document(text, source)
        self._writer.begin()
        tally = _Tally()
        self._run(iter([document]), request, tally)
        return tally.report(self._keep_all())

    def paths(self, paths: Sequence[str], request: IngestRequest) -> IngestReport:
        """Ingest files and folders."""
        if not paths:
            raise InvalidValueError("there is nothing to ingest (0 paths); name at least one file or folder")
        found = discover(paths)
        self._writer.begin()
        tally = _Tally()
        self._run(self._documents(found, request, tally), request, tally)
        return tally.report(self._keep_all())

    def _run(self, documents: Iterator[Document], request: IngestRequest, tally: _Tally) -> None:
        """Commit documents group by group."""
        try:
            for group in _one_ahead(self._groups(documents, request, tally)):
                self._writer.commit(group)
                for draft in group:
                    tally.num_sources += 1
                    tally.num_tokens += len(draft.token_ids)
                    if request.progress is not None:
                        request.progress(tally.num_tokens, draft.source.uri)
            if tally.relabelled:
                with self._parts.catalog.write() as writer:
                    for source_id, key, value in tally.relabelled:
                        writer.set_label(source_id, key, value)
        finally:
            self._drafter.forget()

    def _groups(self, documents: Iterator[Document], request: IngestRequest, tally: _Tally) -> Iterator[list[Draft]]:
        """Drafts in groups that are worth a transaction."""
        group: list[Draft] = []
        num_tokens = num_bytes = 0
        for document in documents:
            if self._is_unchanged(document.uri, document.raw, request, tally):
                continue
            draft = self._drafter.document(document, request)
            group.append(draft)
            num_tokens += len(draft.token_ids)
            num_bytes += sum(map(len, draft.blobs))
            full = num_tokens >= _GROUP_SEGMENTS * self._parts.info.segment_tokens or num_bytes >= _GROUP_BYTES
            if full or len(group) >= _GROUP_DRAFTS:
                self._drafter.next_group()
                yield group
                group, num_tokens, num_bytes = [], 0, 0
        if group:
            yield group

    def _documents(self, found: Iterator[Found], request: IngestRequest, tally: _Tally) -> Iterator[Document]:
        """Files that are new or changed, parsed; what cannot be is counted, or raised if it was named."""
        for file in found:
            try:
                document = self._document(file, request, tally)
            except SourceError as error:
                if file.named:
                    raise
                tally.failures.append(IngestFailure(uri=file.uri, reason=without_surrogates(str(error))))
                continue
            if document is not None:
                yield document

    def _document(self, file: Found, request: IngestRequest, tally: _Tally) -> Document | None:
        if file.problem is not None:
            raise file.problem
        raw = read_bytes(file.path)
        if not is_document(file.path, raw):
            if file.named:
                raise NotTextError(f"{file.path} is a binary file; convert it to text, or leave it out")
            tally.num_binary += 1
            return None
        if self._is_unchanged(file.uri, raw, request, tally):
            return None
        return load(file.path, file.uri, raw)

    def _is_unchanged(self, uri: str, raw: bytes, request: IngestRequest, tally: _Tally) -> bool:
        """Whether the newest version of a source is just these bytes; new labels are noted for it."""
        known = self._drafter.newest(uri)
        if known is None or known.raw_digest != hashlib.sha256(raw).hexdigest():
            return False
        tally.num_unchanged += 1
        for key, value in request.labels.items():
            if known.source_id and known.labels.get(key) != value:
                tally.relabelled.append((known.source_id, key, value))
        return True

    # --- gists --------------------------------------------------------------------------------------------------

    def _keep_some(self) -> None:
        """After an append: keep the gists that are due. They are derived, so that a failure only defers them."""
        if self._reader.num_tokens >= self._keep_from and self._keeper.is_due():
            self._try(self._keeper.catch_up)

    def _keep_all(self) -> str:
        return self._try(self._keeper.keep_all)

    def _try(self, keep: Callable[[], None]) -> str:
        try:
            keep()
        except MegaContextError as error:
            _log.warning("gists are not stored yet, they are computed when needed: %s", error)
            self._keep_from = self._reader.num_tokens + self._parts.info.segment_tokens
            self._writer.invalidate()
            return str(error)
        return ""


def _one_ahead(groups: Iterator[list[Draft]]) -> Iterator[list[Draft]]:
    """The same groups, the next one made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ingest") as pool:
        coming = pool.submit(next, groups, None)
        while (group := coming.result()) is not None:
            coming = pool.submit(next, groups, None)
            yield group
