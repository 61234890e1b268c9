"""Making lost tokens again out of the texts of their sources, or out of what segments keep of those without a text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from megacontext.documents.document import Section, name_of
from megacontext.documents.registry import PARSERS
from megacontext.errors import CorruptionError
from megacontext.memory.encoding import encode_sections
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.segments import bytes_tokens, unsourced
from megacontext.memory.source_texts import SourceTexts
from megacontext.ports.catalog import Extent, Source

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


def _proven(data: bytes, digest: str, name: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptionError(f"{name} parses to another text than it did; restore a backup")
    return data
