"""Sources before they are committed: a document or a run of tokens with its provenance, ready for the writer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megacontext.documents.decoding import without_surrogates
from megacontext.documents.document import Document, Section, name_of, one_section
from megacontext.documents.streaming import TextStream
from megacontext.errors import EmptySourceError, InvalidValueError
from megacontext.memory.encoding import BATCH_PIECES, PieceCutter, SectionEncoder, encode_sections
from megacontext.memory.parts import Parts
from megacontext.memory.tally import ProgressCall
from megacontext.memory.writing import Draft, DraftPiece
from megacontext.ports.arrays import SupportsLongBlobs
from megacontext.ports.catalog import Extent, Source
from megacontext.values import function, name_of_source, text, text_labels

__all__ = ["Drafter", "IngestRequest", "text_document"]


@dataclass(frozen=True, kw_only=True)
class IngestRequest:
    """What is said about all sources of one ingest. progress: called with an IngestProgress now and then."""

    labels: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    author: str = ""
    licence: str = ""
    progress: ProgressCall | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", text_labels(self.labels))
        for name in ("role", "author", "licence"):
            text(name, getattr(self, name))
        if self.progress is not None:
            function("progress", self.progress, of="IngestProgress")

    @property
    def origin(self) -> dict[str, str]:
        """Role, author and licence, as far as they are said."""
        return {"role": self.role, "author": self.author, "licence": self.licence}


class Drafter:
    """Makes drafts, and knows the newest version of a source, committed or still on its way."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._on_the_way: dict[str, Source] = {}  # of the group being drafted
        self._committing: dict[str, Source] = {}  # of the group before

    def next_group(self) -> None:
        """Two groups are on the way at any time: one is drafted while the other is committed."""
        self._committing, self._on_the_way = self._on_the_way, {}

    def forget(self) -> None:
        """All groups are committed, or given up."""
        self._committing, self._on_the_way = {}, {}

    def newest(self, uri: str) -> Source | None:
        """The newest version of a source."""
        known = self._on_the_way.get(uri) or self._committing.get(uri)
        return known or self._parts.catalog.newest_source(uri)

    def document(self, document: Document, request: IngestRequest) -> Draft:
        """A document as tokens, provenance and the bytes to keep.

        Raises: EmptySourceError if it gives no tokens.
        """
        token_ids, extents = encode_sections(document.text, document.sections, self._parts.codec)
        if not len(token_ids):
            raise EmptySourceError(f"{name_of(document.uri)} has no text (0 tokens); leave it out")
        text = document.text.encode("utf-8")
        raw_digest, text_digest = (hashlib.sha256(data).hexdigest() for data in (document.raw, text))
        source = Source(
            uri=document.uri,
            version=self._next_version(document.uri),
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
        )
        self._on_the_way[document.uri] = source
        blobs = [document.raw] if raw_digest == text_digest else [document.raw, text]
        return Draft(source=source, token_ids=token_ids, extents=extents, blobs=blobs)

    def streamed(self, stream: TextStream, request: IngestRequest) -> Source:
        """What is known of a long file before its pieces come."""
        return Source(
            uri=stream.uri,
            version=self._next_version(stream.uri),
            kind=stream.kind,
            raw_digest=stream.raw_digest,
            text_digest=stream.text_digest,
            num_bytes=stream.num_bytes,
            token_start=0,
            token_stop=0,
            role=request.role,
            author=request.author,
            licence=request.licence,
            labels=request.labels,
            created_at=time.time(),
        )

    def pieces(self, stream: TextStream) -> Generator[DraftPiece]:
        """A long file as tokens and extents, its bytes stored as they pass.

        Raises: EmptySourceError if it gives no tokens, UnreadableSourceError if it changed; StorageError.
        """
        blobs = self._parts.blobs
        assert isinstance(blobs, SupportsLongBlobs)
        cutter, encoder = PieceCutter(), SectionEncoder(self._parts.codec)
        section = Section(char_start=0, char_stop=0)  # where it ends is not known, and not asked
        waiting: list[str] = []
        num_bytes = num_tokens = 0
        with ExitStack() as stack:
            raw = stack.enter_context(blobs.stream())
            own_text = None if stream.raw_digest == stream.text_digest else stack.enter_context(blobs.stream())
            for data, text in stream.pieces():
                raw.write(data)
                if own_text is not None:
                    own_text.write(text.encode())
                num_bytes += len(data)
                waiting += cutter.add(text)
                if len(waiting) >= BATCH_PIECES:
                    token_ids, extents = encoder.add((section, piece) for piece in waiting)
                    waiting = []
                    num_tokens += sum(map(len, token_ids))
                    yield DraftPiece(token_ids=np.concatenate(token_ids), extents=extents, num_bytes=num_bytes)
                    num_bytes = 0
            token_ids, extents = encoder.add((section, piece) for piece in [*waiting, *cutter.finish()])
            if not num_tokens + sum(map(len, token_ids)):
                raise EmptySourceError(f"{name_of(stream.uri)} has no text (0 tokens); leave it out")
            raw.finish()
            if own_text is not None:
                own_text.finish()
        yield DraftPiece(
            token_ids=np.concatenate([np.empty(0, np.uint32), *token_ids]),
            extents=extents + encoder.finish(),
            num_bytes=num_bytes,
        )

    def tokens(self, token_ids: npt.NDArray[np.uint32], uri: str, role: str, newest: Source | None) -> Draft:
        """Tokens as such; they continue ``newest`` if they are of the same source and role."""
        if newest is not None and (newest.kind, newest.uri, newest.role) == ("tokens", uri, role):
            return Draft(source=newest, token_ids=token_ids, continues=newest.source_id)
        same = newest is not None and newest.uri == uri
        source = Source(
            uri=uri,
            version=newest.version + 1 if same and newest is not None else self._next_version(uri),
            kind="tokens",
            raw_digest="",
            text_digest="",
            num_bytes=token_ids.nbytes,
            token_start=0,
            token_stop=len(token_ids),
            role=role,
            created_at=time.time(),
        )
        extent = Extent(
            source_id=0,
            token_start=0,
            token_stop=len(token_ids),
            byte_start=0,
            byte_stop=token_ids.nbytes,
            role=role,
            anchors=np.empty(0, np.int64),
        )
        return Draft(source=source, token_ids=token_ids, extents=[extent])

    def _next_version(self, uri: str) -> int:
        newest = self.newest(uri)
        return newest.version + 1 if newest is not None else 1


def text_document(given: object, uri: str) -> Document:
    """A text that a program gives, under a name. Lone surrogates become U+FFFD.

    Raises: EmptySourceError; InvalidValueError if either is no text.
    """
    name_of_source(uri)
    if not isinstance(given, str):
        raise InvalidValueError(f"the text of {uri} is of type {type(given).__name__}; give a str")
    if not given.strip():
        raise EmptySourceError(f"{uri} has no text ({len(given)} characters); give at least one word")
    plain = without_surrogates(given)
    return Document(uri=uri, kind="text", raw=plain.encode("utf-8"), text=plain, sections=one_section(plain).sections)
