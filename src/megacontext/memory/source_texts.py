"""Texts of sources as they were stored, read no further than they are needed where they are long."""

from __future__ import annotations

from collections.abc import Iterator

from megacontext.memory.parts import Parts
from megacontext.ports.arrays import SupportsLongBlobs
from megacontext.ports.catalog import Extent, Source
from megacontext.units import MIB

__all__ = ["LONG_BYTES", "SourceTexts", "blob_pieces"]

LONG_BYTES = 16 * MIB  # of a source: shorter ones are read whole, and so verified by their own digest


class SourceTexts:
    """Remembers the last text, since extents of one source follow one another."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._digest = ""
        self._text = b""

    def of(self, source: Source, extent: Extent) -> bytes:
        """The text of an extent.

        Raises: CorruptionError.
        """
        return self.part(source, extent.byte_start, extent.byte_stop)

    def part(self, source: Source, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a source's text; CorruptionError."""
        blobs, digest = self._parts.blobs, source.text_digest
        is_long = source.num_bytes >= LONG_BYTES and digest != self._digest
        if is_long and isinstance(blobs, SupportsLongBlobs) and blobs.reads_parts(digest):
            return blobs.part(digest, start, stop)
        return self._whole(digest)[start:stop]

    def _whole(self, digest: str) -> bytes:
        if self._digest != digest:
            self._text = self._parts.blobs.get(digest)
            self._digest = digest
        return self._text


def blob_pieces(parts: Parts, digest: str) -> Iterator[bytes]:
    """A blob in order, in pieces if the store can.

    Raises: CorruptionError, at the latest behind the last piece.
    """
    if isinstance(parts.blobs, SupportsLongBlobs):
        yield from parts.blobs.pieces(digest)
    else:
        yield parts.blobs.get(digest)
