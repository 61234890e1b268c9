"""Making a lost blob again out of whatever still has its bytes, in pieces, since a text may be too long to be held.

Each candidate is read twice: once to see whether its digest is the one that is wanted, once to be copied.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from megacontext.documents import plain
from megacontext.documents.decoding import HEAD_BYTES, TextDecoder, encodings_of
from megacontext.documents.document import name_of
from megacontext.documents.registry import PARSERS
from megacontext.errors import CorruptionError, MegaContextError
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.segments import token_bytes, unsourced
from megacontext.memory.source_texts import blob_pieces
from megacontext.ports.catalog import Segment, Source
from megacontext.units import MIB

__all__ = ["LostBlobs"]

_NUM_ENCODINGS = len(list(encodings_of("")))

Pieces = Iterator[bytes]


class LostBlobs:
    """Looks for the bytes of a blob in files, in other blobs and in tokens; writes nothing."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader

    def find(self, digest: str) -> tuple[int, Pieces]:
        """How many bytes a damaged blob had, and these in pieces.

        Raises: CorruptionError if nothing has them, or behind the last piece if what had them changed meanwhile.
        """
        name = self._parts.blobs.object_name(digest)
        for candidate in self._candidates(digest):
            found, num_bytes = hashlib.sha256(), 0
            try:
                for piece in candidate():
                    found.update(piece)
                    num_bytes += len(piece)
            except (MegaContextError, ValueError):  # it is damaged itself, or no text
                continue
            if found.hexdigest() == digest:
                return num_bytes, _proven(candidate(), digest, name)
        raise CorruptionError(f"{name} cannot be made again; restore a backup")

    def _candidates(self, digest: str) -> Iterator[Callable[[], Pieces]]:
        for source in self._parts.catalog.sources():
            is_raw, is_text = digest == source.raw_digest, digest == source.text_digest
            if not (is_raw or is_text):
                continue
            yield partial(_original, source.uri)
            if not is_raw:
                yield partial(self._parsed, source)
            texts = [self._decoded] if is_text else [self._stored, self._decoded]
            for text in texts:
                yield partial(text, source)
                if is_raw:  # a file may be in any encoding
                    yield from (partial(_encoded, text, source, number) for number in range(1, _NUM_ENCODINGS))
        for segment in self._parts.catalog.segments():
            if segment.raw_digest == digest:
                yield partial(self._segment_raw, segment)

    # --- texts in UTF-8 -----------------------------------------------------------------------------------------

    def _stored(self, source: Source) -> Pieces:
        return blob_pieces(self._parts, source.text_digest)

    def _parsed(self, source: Source) -> Pieces:
        """Out of the original."""
        name = name_of(source.uri)
        if PARSERS[source.kind] is not plain.parse:
            yield PARSERS[source.kind](self._parts.blobs.get(source.raw_digest), name).text.encode("utf-8")
            return
        decoder, head = None, b""
        for piece in blob_pieces(self._parts, source.raw_digest):
            head += piece
            if decoder is None and len(head) >= HEAD_BYTES:
                decoder = TextDecoder(head, name)
            if decoder is not None:
                yield decoder.add(head).encode("utf-8")
                head = b""
        yield (decoder or TextDecoder(head, name)).add(head, is_last=True).encode("utf-8")

    def _decoded(self, source: Source) -> Pieces:
        """Out of the tokens."""
        for _, extent in self._parts.catalog.extents(source.token_start, source.token_stop):
            yield self._parts.codec.decode(self._reader.tokens(extent.token_start, extent.token_stop)).encode("utf-8")

    # --- tokens -------------------------------------------------------------------------------------------------

    def _segment_raw(self, segment: Segment) -> Pieces:
        """Tokens that were appended as such."""
        size = self._parts.info.segment_tokens
        spans = unsourced(self._parts.catalog, segment.segment * size, (segment.segment + 1) * size)
        yield token_bytes([self._reader.tokens(start, stop) for start, stop in spans])


def _original(uri: str) -> Pieces:
    """The file that the source came from, if it is still there (its digest decides whether it is still the same)."""
    try:
        parts = urlsplit(uri)
        if parts.scheme != "file":
            return
        with Path(unquote(parts.path)).open("rb") as file:
            while piece := file.read(MIB):
                yield piece
    except (OSError, ValueError):  # a name that somebody gave a source need not be a uri, nor a file's
        return


def _encoded(text: Callable[[Source], Pieces], source: Source, number: int) -> Pieces:
    """A text in one of the ``encodings_of`` it."""
    num_mark_bytes = len(_nth_encoding("", number))
    decoder = codecs.getincrementaldecoder("utf-8")()
    yield _nth_encoding("", number)
    for piece in text(source):
        yield _nth_encoding(decoder.decode(piece), number)[num_mark_bytes:]


def _nth_encoding(text: str, number: int) -> bytes:
    return next(islice(encodings_of(text), number, None))


def _proven(pieces: Pieces, digest: str, name: str) -> Pieces:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    if found.hexdigest() != digest:
        raise CorruptionError(f"{name} is made of what changed while it was read; repair again")
