"""What comes in, on its way to the writer: files that are new or changed, drafted in groups that are worth a commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from megacontext.documents.decoding import is_binary
from megacontext.documents.discovery import Found
from megacontext.documents.document import Document
from megacontext.documents.loading import OpenFile, load, plain_document
from megacontext.documents.registry import is_document
from megacontext.documents.streaming import TextStream, survey
from megacontext.errors import NotTextError, SourceError
from megacontext.memory.drafting import Drafter, IngestRequest
from megacontext.memory.parts import Parts
from megacontext.memory.tally import IngestTally
from megacontext.memory.writing import Draft, DraftPiece
from megacontext.ports.arrays import SupportsLongBlobs
from megacontext.ports.catalog import Source
from megacontext.units import MIB

__all__ = ["GROUP_DRAFTS", "GROUP_SEGMENTS", "Arrivals", "Group", "LongSource"]

GROUP_SEGMENTS = 2  # tokens that wait for a transaction, in segments
GROUP_DRAFTS = 512
_GROUP_BYTES = 64 * MIB  # of originals: a page of a PDF may weigh a thousand times its text


@dataclass(frozen=True, kw_only=True)
class LongSource:
    """A source that comes in pieces, a group of its own.

    source: what is known of it before they come; pieces: makes them, once; num_bytes: of all of them; named: by the
    user, so that failing on it is an error.
    """

    uri: str
    num_bytes: int
    source: Callable[[], Source]
    pieces: Callable[[], Generator[DraftPiece]]
    named: bool


Group = list[Draft] | LongSource


class Arrivals:
    """Everything here runs in the thread that reads ahead."""

    def __init__(self, parts: Parts, drafter: Drafter, request: IngestRequest, tally: IngestTally) -> None:
        self._parts = parts
        self._drafter = drafter
        self._request = request
        self._tally = tally

    def grouped(self, documents: Iterator[Document | LongSource | None]) -> Iterator[Group]:
        """Drafts in groups that are worth a transaction; an empty one now and then where nothing is new."""
        group: list[Draft] = []
        num_tokens = num_bytes = num_skipped = 0
        for document in documents:
            if document is None or self._came_meanwhile(document):
                num_skipped += 1
                if num_skipped % GROUP_DRAFTS == 0 and not group:
                    yield []
                continue
            if isinstance(document, Document):
                draft = self._drafter.document(document, self._request)
                group.append(draft)
                num_tokens += len(draft.token_ids)
                num_bytes += sum(map(len, draft.blobs))
            full = num_tokens >= GROUP_SEGMENTS * self._parts.info.segment_tokens or num_bytes >= _GROUP_BYTES
            if group and (full or len(group) >= GROUP_DRAFTS or isinstance(document, LongSource)):
                self._drafter.next_group()
                yield group
                group, num_tokens, num_bytes = [], 0, 0
            if isinstance(document, LongSource):
                yield document
        if group:
            yield group

    def documents(self, found: Iterator[Found]) -> Iterator[Document | LongSource | None]:
        """Files that are new or changed, parsed; None for the others. What cannot be read is counted, or raised if it
        was named."""
        for file in found:
            document = None
            try:
                document = self._document(file)
            except SourceError as error:
                if file.named:
                    raise
                self._tally.fail(file.uri, error)
            if document is None:
                with suppress(OSError):
                    self._tally.num_bytes += file.path.stat().st_size
            yield document

    def opened(self, given: IO[bytes], uri: str) -> Iterator[Document | LongSource | None]:
        """A text in a file that is open already, under a name."""
        with OpenFile(Path(uri), given) as file:
            if is_binary(file.head):
                raise NotTextError(f"{uri} is binary; convert it to text")
            if file.is_streamed and isinstance(self._parts.blobs, SupportsLongBlobs):
                stream = survey(file, uri, given)
                is_unchanged = self._is_unchanged(uri, stream.raw_digest)
                self._tally.num_bytes += stream.num_bytes * is_unchanged
                yield None if is_unchanged else self._long(stream, named=True)
            else:
                yield plain_document(uri, file.whole())

    def _document(self, found: Found) -> Document | LongSource | None:
        if found.problem is not None:
            raise found.problem
        with OpenFile(found.path) as file:
            if not is_document(found.path, file.head):
                if found.named:
                    raise NotTextError(f"{found.path} is a binary file; convert it to text, or leave it out")
                self._tally.num_binary += 1
                return None
            if file.is_streamed and isinstance(self._parts.blobs, SupportsLongBlobs):
                stream = survey(file, found.uri)
                if self._is_unchanged(found.uri, stream.raw_digest):
                    return None
                return self._long(stream, named=found.named)
            raw = file.whole()
        if self._is_unchanged(found.uri, hashlib.sha256(raw).hexdigest()):
            return None
        return load(found.path, found.uri, raw)

    def _long(self, stream: TextStream, *, named: bool) -> LongSource:
        return LongSource(
            uri=stream.uri,
            num_bytes=stream.num_bytes,
            source=partial(self._drafter.streamed, stream, self._request),
            pieces=partial(self._drafter.pieces, stream),
            named=named,
        )

    def _came_meanwhile(self, document: Document | LongSource) -> bool:
        """Whether a document is there that was not when its file was read: one file named twice, a text given again."""
        if isinstance(document, LongSource):
            return False
        is_unchanged = self._is_unchanged(document.uri, hashlib.sha256(document.raw).hexdigest())
        self._tally.num_bytes += len(document.raw) * is_unchanged
        return is_unchanged

    def _is_unchanged(self, uri: str, raw_digest: str) -> bool:
        """Whether the newest version of a source is just these bytes; what is said anew of it is noted."""
        known = self._drafter.newest(uri)
        if known is None or known.raw_digest != raw_digest:
            return False
        self._tally.num_unchanged += 1
        for key, value in self._request.labels.items():
            if known.source_id and known.labels.get(key) != value:
                self._tally.relabelled.append((known.source_id, key, value))
        if known.source_id and known != known.described(**self._request.origin):
            self._tally.described.append((known.source_id, self._request.origin))
        return True
