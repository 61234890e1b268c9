"""Making lost data again: tokens out of texts, texts out of tokens or originals, each proven by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from megacontext.documents.decoding import encodings_of
from megacontext.documents.document import Section, name_of
from megacontext.documents.registry import PARSERS
from megacontext.errors import CorruptionError, MegaContextError
from megacontext.memory.encoding import encode_sections
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.segments import bytes_tokens, token_bytes, unsourced
from megacontext.memory.source_texts import SourceTexts
from megacontext.ports.catalog import Extent, Segment, Source

__all__ = ["Rebuilder"]


class Rebuilder:
    """Reads what is intact and computes what is not; writes nothing."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader

    # --- tokens -------------------------------------------------------------------------------------------------

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Tokens [start, stop) encoded again from the texts of their sources.

        Raises: CorruptionError if a text is lost too, or encodes to another number of tokens than before.
        """
        pieces = [np.empty(0, np.uint32)]
        texts = SourceTexts(self._parts)
        rescued: dict[str, bytes] = {}  # the last text that had to be parsed again
        for source, extent in self._parts.catalog.extents(start, stop):
            if source.text_digest:
                try:
                    text = texts.of(source, extent)
                except CorruptionError:
                    if source.text_digest not in rescued:
                        rescued = {source.text_digest: self.text_of(source)}
                    text = rescued[source.text_digest][extent.byte_start : extent.byte_stop]
                whole = self._encoded(source, extent, text)
                pieces.append(whole[max(0, start - extent.token_start) : stop - extent.token_start])
            else:
                pieces.append(self._kept_raw(max(start, extent.token_start), min(stop, extent.token_stop)))
        tokens = np.concatenate(pieces)
        if len(tokens) != stop - start:
            raise CorruptionError(f"sources give {len(tokens)} tokens for [{start}, {stop}); restore a backup")
        return tokens

    def _encoded(self, source: Source, extent: Extent, text: bytes) -> npt.NDArray[np.uint32]:
        part = text.decode("utf-8")
        tokens, _ = encode_sections(part, [Section(char_start=0, char_stop=len(part))], self._parts.codec)
        if len(tokens) != extent.token_stop - extent.token_start:
            raise CorruptionError(f"{name_of(source.uri)} encodes to other tokens than it did; restore a backup")
        return tokens

    def _kept_raw(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Tokens that were appended as such, out of the blobs that their segments keep of them."""
        size = self._parts.info.segment_tokens
        segments = {segment.segment: segment for segment in self._parts.catalog.segments()}
        pieces = [np.empty(0, np.uint32)]
        for number in range(start // size, (stop - 1) // size + 1):
            segment = segments.get(number)
            if segment is None or not segment.raw_digest:
                raise CorruptionError(f"tokens [{start}, {stop}) were appended without a source; restore a backup")
            kept = bytes_tokens(self._parts.blobs.get(segment.raw_digest))
            position = 0
            for begin, end in self._unsourced(number):
                first, last = max(start, begin), min(stop, end)
                if first < last:
                    pieces.append(kept[position + first - begin : position + last - begin])
                position += end - begin
        return np.concatenate(pieces)

    def _unsourced(self, number: int) -> Iterator[tuple[int, int]]:
        size = self._parts.info.segment_tokens
        return unsourced(self._parts.catalog, number * size, (number + 1) * size)

    # --- texts --------------------------------------------------------------------------------------------------

    def text_of(self, source: Source) -> bytes:
        """A source's text: as it was stored, or else parsed again from the original."""
        try:
            return self._parts.blobs.get(source.text_digest)
        except CorruptionError:
            if source.text_digest == source.raw_digest:
                raise
        name = name_of(source.uri)
        text = PARSERS[source.kind](self._parts.blobs.get(source.raw_digest), name).text.encode("utf-8")
        return _proven(text, source.text_digest, name)

    def blob(self, digest: str) -> bytes:
        """The bytes of a damaged blob, made anew from whatever still has them.

        Raises: CorruptionError if nothing has.
        """
        for candidate in self._candidates(digest):
            if hashlib.sha256(candidate).hexdigest() == digest:
                return candidate
        raise CorruptionError(f"{self._parts.blobs.object_name(digest)} cannot be made again; restore a backup")

    def _candidates(self, digest: str) -> Iterator[bytes]:
        for source in self._parts.catalog.sources():
            if digest in (source.raw_digest, source.text_digest):
                yield from _original(source.uri)
                yield from self._texts(source)
        for segment in self._parts.catalog.segments():
            if segment.raw_digest == digest:
                yield from self._segment_raw(segment)

    def _texts(self, source: Source) -> Iterator[bytes]:
        """The text parsed again, or decoded from the tokens; in every encoding that an original may have had."""
        try:
            text = self.text_of(source)
        except MegaContextError:
            try:
                text = self._decoded(source)
            except MegaContextError:
                return
        yield text
        yield from encodings_of(text.decode("utf-8"))

    def _decoded(self, source: Source) -> bytes:
        return b"".join(
            self._parts.codec.decode(self._reader.tokens(extent.token_start, extent.token_stop)).encode("utf-8")
            for _, extent in self._parts.catalog.extents(source.token_start, source.token_stop)
        )

    def _segment_raw(self, segment: Segment) -> Iterator[bytes]:
        try:
            pieces = [self._reader.tokens(start, stop) for start, stop in self._unsourced(segment.segment)]
        except MegaContextError:
            return
        yield token_bytes(pieces)


def _proven(data: bytes, digest: str, name: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptionError(f"{name} parses to another text than it did; restore a backup")
    return data


def _original(uri: str) -> Iterator[bytes]:
    """The file that the source came from, if it is still there (its digest decides whether it is still the same)."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        try:
            yield Path(unquote(parts.path)).read_bytes()
        except OSError:
            return
