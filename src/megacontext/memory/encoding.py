"""Documents to token ids, with byte anchors that find every span in its text again.

Long sections are encoded in pieces, so that a tokenizer works on them in parallel and a book needs no giant call.
**The pieces decide the ids**, so their rule is part of the format: it looks at the text alone, and changing it would
keep old sources from being rebuilt out of their raw bytes (``check --repair`` compares digests and would refuse).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from megacontext.documents.document import Section
from megacontext.ports.catalog import Extent
from megacontext.ports.text import Encoded, TextCodec

__all__ = ["ANCHOR_TOKENS", "PIECE_CHARS", "byte_offsets", "encode_sections", "piece_bounds"]

ANCHOR_TOKENS = 32  # the catalog's extents promise one anchor per 32 tokens
PIECE_CHARS = 16_384
_BATCH_PIECES = 64  # about a million characters in flight


def piece_bounds(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut ``text[start:stop]`` into pieces of at most ``PIECE_CHARS``.

    A piece ends behind the last line break of its second half, or else before the last space there, or else where it
    is full.
    """
    while stop - start > PIECE_CHARS:
        middle, limit = start + PIECE_CHARS // 2, start + PIECE_CHARS
        cut = text.rfind("\n", middle, limit) + 1 or max(text.rfind(" ", middle, limit), 0) or limit
        yield start, cut
        start = cut
    if start < stop:
        yield start, stop


def encode_sections(
    text: str, sections: Sequence[Section], codec: TextCodec
) -> tuple[npt.NDArray[np.uint32], list[Extent]]:
    """Token ids of all sections end to end, and one extent each, relative to the first token.

    Sections that give no tokens leave no extent.
    """
    token_ids: list[npt.NDArray[np.uint32]] = []
    extents: list[Extent] = []
    pieces = [
        (number, bounds)
        for number, section in enumerate(sections)
        for bounds in piece_bounds(text, section.char_start, section.char_stop)
    ]
    bytes_before = 0
    open_section = _OpenExtent()
    for first in range(0, len(pieces), _BATCH_PIECES):
        batch = pieces[first : first + _BATCH_PIECES]
        texts = [text[start:stop] for _, (start, stop) in batch]
        for (number, _), piece, encoded in zip(batch, texts, codec.encode_batch(texts), strict=True):
            if number != open_section.number:
                extents += open_section.close(sections)
                open_section = _OpenExtent(number, open_section.token_stop, bytes_before)
            token_ids.append(encoded.token_ids)
            bytes_before = open_section.add(piece, encoded, bytes_before)
    extents += open_section.close(sections)
    return np.concatenate([np.empty(0, np.uint32), *token_ids]), extents


class _OpenExtent:
    """The extent that the pieces of one section are adding up to."""

    def __init__(self, number: int = -1, token_start: int = 0, byte_start: int = 0) -> None:
        self.number = number
        self.token_start = self.token_stop = token_start
        self.byte_start = self.byte_stop = byte_start
        self.anchors: list[npt.NDArray[np.int64]] = []

    def add(self, piece: str, encoded: Encoded, bytes_before: int) -> int:
        """Count one piece in; bytes of the text up to its end."""
        offsets = byte_offsets(piece)
        first = -(self.token_stop - self.token_start) % ANCHOR_TOKENS
        chars = encoded.char_starts[first::ANCHOR_TOKENS]
        self.anchors.append(offsets[chars] + (bytes_before - self.byte_start))
        self.token_stop += len(encoded.token_ids)
        self.byte_stop = bytes_before + int(offsets[-1])
        return self.byte_stop

    def close(self, sections: Sequence[Section]) -> list[Extent]:
        if self.token_start == self.token_stop:
            return []
        section = sections[self.number]
        return [
            Extent(
                source_id=0,
                token_start=self.token_start,
                token_stop=self.token_stop,
                byte_start=self.byte_start,
                byte_stop=self.byte_stop,
                title=section.title,
                role=section.role,
                time=section.time,
                anchors=np.concatenate(self.anchors).astype(np.int64),
            )
        ]


def byte_offsets(text: str) -> npt.NDArray[np.int64]:
    """UTF-8 offset of every character of ``text``, and of its end: int64 [len(text) + 1]."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(widths)])
