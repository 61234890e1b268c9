"""Everything that comes in: tokens, texts, files and folders become drafts, and drafts are committed in groups.

One source is whole or absent. Small ones share a transaction, since a sync costs more than their tokens.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import numpy.typing as npt

from megacontext.documents.decoding import without_surrogates
from megacontext.documents.discovery import discover
from megacontext.documents.document import Document, one_section
from megacontext.documents.loading import load, read_bytes
from megacontext.documents.registry import is_document
from megacontext.errors import EmptySourceError, InvalidValueError, MegaContextError, NotTextError, SourceError
from megacontext.memory.encoding import encode_sections
from megacontext.memory.intake import valid_token_ids
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import IngestFailure, IngestReport
from megacontext.memory.sealing import GistKeeper
from megacontext.memory.writing import Draft, Writer
from megacontext.ports.catalog import Extent, Source
from megacontext.units import MIB

__all__ = ["IngestRequest", "Ingestor"]

_log = logging.getLogger(__name__)
_GROUP_SEGMENTS = 4  # tokens that wait for a transaction, in segments
_GROUP_DRAFTS = 512
_GROUP_BYTES = 64 * MIB  # of originals: a page of a PDF may weigh a thousand times its text


@dataclass(frozen=True, kw_only=True)
class IngestRequest:
    """What is said about all sources of one ingest."""

    labels: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    author: str = ""
    licence: str = ""
    progress: Callable[[int, str], None] | None = None

    def __post_init__(self) -> None:
        for key, value in self.labels.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise InvalidValueError(f"label {key!r}={value!r} is not text; give strings, for example team='infra'")


class _Tally:
    """The report while it is being made, and the drafts that wait for their transaction."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.drafts: list[Draft] = []
        self.pending_uris: set[str] = set()
        self.pending_tokens = self.pending_bytes = 0
        self.num_sources = self.num_tokens = self.num_unchanged = self.num_binary = 0
        self.failures: list[IngestFailure] = []

    def add(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self.pending_uris.add(draft.source.uri)
        self.pending_tokens += len(draft.token_ids)
        self.pending_bytes += sum(map(len, draft.blobs))

    def flushed(self) -> None:
        self.num_sources += len(self.drafts)
        self.num_tokens += self.pending_tokens
        self.drafts, self.pending_uris = [], set()
        self.pending_tokens = self.pending_bytes = 0

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
    """Turns what users give into drafts for the writer."""

    def __init__(self, parts: Parts, reader: TreeReader, writer: Writer, keeper: GistKeeper) -> None:
        self._parts = parts
        self._reader = reader
        self._writer = writer
        self._keeper = keeper
        self._keep_from = 0  # no more attempts to keep gists before the history is this long

    # --- tokens and turns ---------------------------------------------------------------------------------------

    def tokens(self, token_ids: npt.ArrayLike, *, source: str, role: str) -> int:
        """Append tokens as such; the position of the first."""
        tokens = valid_token_ids(token_ids, self._parts.info.vocab_size)
        self._writer.begin()
        newest = self._writer.newest
        if newest is not None and (newest.kind, newest.uri, newest.role) == ("tokens", source, role):
            draft = Draft(source=newest, token_ids=tokens, continues=newest.source_id)
        else:
            draft = self._tokens_draft(tokens, source, role)
        start = self._writer.commit([draft])
        self._keep_some()
        return start

    def turn(self, text: str, source: str, request: IngestRequest) -> tuple[int, int]:
        """Append a short text, even if the source said the same before; its token range."""
        document = _text_document(text, source)
        self._writer.begin()
        start = self._writer.commit([self._draft(document, request, self._next_version(source))])
        self._keep_some()
        return start, self._reader.num_tokens

    # --- texts, files, folders ----------------------------------------------------------------------------------

    def text(self, text: str, source: str, request: IngestRequest) -> IngestReport:
        """Ingest one text under a name."""
        document = _text_document(text, source)
        self._writer.begin()
        tally = _Tally()
        self._take(document, request, tally)
        self._flush(tally)
        return tally.report(self._keep_all())

    def paths(self, paths: str | PathLike[str] | Iterable[str | PathLike[str]], request: IngestRequest) -> IngestReport:
        """Ingest files and folders."""
        given = [paths] if isinstance(paths, str | PathLike) else list(paths)
        if not given:
            raise InvalidValueError("there is nothing to ingest (0 paths); name at least one file or folder")
        self._writer.begin()
        tally = _Tally()
        for found in discover(given):
            try:
                if found.problem is not None:
                    raise found.problem
                raw = read_bytes(found.path)
                if not is_document(found.path, raw):
                    if found.named:
                        raise NotTextError(f"{found.path} is a binary file; convert it to text, or leave it out")
                    tally.num_binary += 1
                    continue
                if not self._is_unchanged(found.uri, raw, request, tally):
                    self._take(load(found.path, found.uri, raw), request, tally)
            except SourceError as error:
                if found.named:
                    raise
                tally.failures.append(IngestFailure(uri=found.uri, reason=str(error)))
        self._flush(tally)
        return tally.report(self._keep_all())

    def _take(self, document: Document, request: IngestRequest, tally: _Tally) -> None:
        """Draft one document, and commit the group if it is large enough."""
        if document.uri in tally.pending_uris:
            self._flush(tally)
        if self._is_unchanged(document.uri, document.raw, request, tally):
            return
        tally.add(self._draft(document, request, self._next_version(document.uri)))
        if request.progress is not None:
            request.progress(tally.num_tokens + tally.pending_tokens, document.uri)
        group_tokens = _GROUP_SEGMENTS * self._parts.info.segment_tokens
        full = tally.pending_tokens >= group_tokens or tally.pending_bytes >= _GROUP_BYTES
        if full or len(tally.drafts) >= _GROUP_DRAFTS:
            self._flush(tally)

    def _flush(self, tally: _Tally) -> None:
        if tally.drafts:
            self._writer.commit(tally.drafts)
            tally.flushed()

    def _is_unchanged(self, uri: str, raw: bytes, request: IngestRequest, tally: _Tally) -> bool:
        """Whether the newest version of a source is just these bytes; new labels are set on it."""
        known = self._parts.catalog.sources(uri=uri)
        if not known or known[-1].raw_digest != hashlib.sha256(raw).hexdigest():
            return False
        changed = {key: value for key, value in request.labels.items() if known[-1].labels.get(key) != value}
        if changed:
            with self._parts.catalog.write() as writer:
                for key, value in changed.items():
                    writer.set_label(known[-1].source_id, key, value)
        tally.num_unchanged += 1
        return True

    # --- drafts -------------------------------------------------------------------------------------------------

    def _next_version(self, uri: str) -> int:
        newest = self._writer.newest
        if newest is not None and newest.uri == uri:
            return newest.version + 1
        return max((source.version for source in self._parts.catalog.sources(uri=uri)), default=0) + 1

    def _draft(self, document: Document, request: IngestRequest, version: int) -> Draft:
        """A document as tokens, provenance and the bytes to keep."""
        token_ids, extents = encode_sections(document.text, document.sections, self._parts.codec)
        if not len(token_ids):
            raise EmptySourceError(f"{document.uri} has no text (0 tokens); leave it out")
        text = document.text.encode("utf-8")
        raw_digest, text_digest = (hashlib.sha256(data).hexdigest() for data in (document.raw, text))
        return Draft(
            source=Source(
                uri=document.uri,
                version=version,
                kind=document.kind,
                raw_digest=raw_digest,
                text_digest=text_digest,
                num_bytes=len(document.raw),
                token_start=0,
                token_stop=len(token_ids),
                role=request.role,
                author=request.author or document.author,
                licence=request.licence or document.licence,
                labels=request.labels,
                created_at=time.time(),
            ),
            token_ids=token_ids,
            extents=extents,
            blobs=[document.raw] if raw_digest == text_digest else [document.raw, text],
        )

    def _tokens_draft(self, tokens: npt.NDArray[np.uint32], source: str, role: str) -> Draft:
        return Draft(
            source=Source(
                uri=source,
                version=self._next_version(source),
                kind="tokens",
                raw_digest="",
                text_digest="",
                num_bytes=tokens.nbytes,
                token_start=0,
                token_stop=len(tokens),
                role=role,
                created_at=time.time(),
            ),
            token_ids=tokens,
            extents=[
                Extent(
                    source_id=0,
                    token_start=0,
                    token_stop=len(tokens),
                    byte_start=0,
                    byte_stop=0,
                    role=role,
                    anchors=np.empty(0, np.int64),
                )
            ],
        )

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
            self._reader.refresh()
            return str(error)
        return ""


def _text_document(text: str, source: str) -> Document:
    if not text.strip():
        raise EmptySourceError(f"{source} has no text ({len(text)} characters); give at least one word")
    text = without_surrogates(text)
    parsed = one_section(text)
    return Document(uri=source, kind="text", raw=text.encode("utf-8"), text=text, sections=parsed.sections)
