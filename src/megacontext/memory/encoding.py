"""Documents to token ids, with byte anchors that find every span in its text again.

Long sections are encoded in pieces, so that a tokenizer works on them in parallel and a book needs no giant call.
**The pieces decide the ids**, so their rule is part of the format: it looks at the text alone, and changing it would
keep old sources from being rebuilt out of their raw bytes (``check --repair`` compares digests and would refuse).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from megacontext.documents.document import Section
from megacontext.ports.catalog import Extent
from megacontext.ports.text import Encoded, TextCodec

__all__ = [
    "ANCHOR_TOKENS",
    "BATCH_PIECES",
    "EXTENT_TOKENS",
    "PIECE_CHARS",
    "PieceCutter",
    "SectionEncoder",
    "byte_offsets",
    "encode_sections",
    "piece_bounds",
]

ANCHOR_TOKENS = 32  # the catalog's extents promise one anchor per 32 tokens
PIECE_CHARS = 16_384
BATCH_PIECES = 64  # about a million characters in flight
EXTENT_TOKENS = 1 << 20  # of a section at most in one extent, give or take a piece


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


class PieceCutter:
    """`piece_bounds` for a section that arrives bit by bit: the same pieces, whatever the bits."""

    def __init__(self) -> None:
        self._rest = ""

    def add(self, text: str) -> list[str]:
        """The pieces that are certain, whatever follows."""
        text = self._rest + text
        *certain, last = piece_bounds(text, 0, len(text)) if text else [(0, 0)]
        self._rest = text[slice(*last)]
        return [text[start:stop] for start, stop in certain]

    def finish(self) -> list[str]:
        """What is left: the last piece, if there is any."""
        return [self._rest] if self._rest else []


class SectionEncoder:
    """Pieces of a document's sections to token ids, and to extents relative to the first token."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._open = _OpenExtent()
        self._bytes_before = 0

    def add(self, pieces: Iterable[tuple[Section, str]]) -> tuple[list[npt.NDArray[np.uint32]], list[Extent]]:
        """Token ids piece by piece, and the extents that ended. A piece follows the one before, in its section or the
        next."""
        token_ids: list[npt.NDArray[np.uint32]] = []
        extents: list[Extent] = []
        coming = iter(pieces)
        while batch := list(islice(coming, BATCH_PIECES)):
            texts = [text for _, text in batch]
            for (section, text), encoded in zip(batch, self._codec.encode_batch(texts), strict=True):
                if section is not self._open.section or self._open.num_tokens >= EXTENT_TOKENS:
                    extents += self._open.close()
                    self._open = _OpenExtent(section, self._open.token_stop, self._bytes_before)
                token_ids.append(encoded.token_ids)
                self._bytes_before = self._open.add(text, encoded, self._bytes_before)
        return token_ids, extents

    def finish(self) -> list[Extent]:
        """The last extent, unless it has no tokens."""
        return self._open.close()


def encode_sections(
    text: str, sections: Sequence[Section], codec: TextCodec
) -> tuple[npt.NDArray[np.uint32], list[Extent]]:
    """Token ids of all sections end to end, and their extents, relative to the first token.

    Sections that give no tokens leave no extent; one of more than ``EXTENT_TOKENS`` leaves several, cut where pieces
    end, so that a span is found in its source without reading anchors by the million.
    """
    encoder = SectionEncoder(codec)
    pieces = (
        (section, text[start:stop])
        for section in sections
        for start, stop in piece_bounds(text, section.char_start, section.char_stop)
    )
    token_ids, extents = encoder.add(pieces)
    return np.concatenate([np.empty(0, np.uint32), *token_ids]), extents + encoder.finish()


class _OpenExtent:
    """The extent that the pieces of one section are adding up to."""

    def __init__(self, section: Section | None = None, token_start: int = 0, byte_start: int = 0) -> None:
        self.section = section
        self._token_start = self.token_stop = token_start
        self._byte_start = self._byte_stop = byte_start
        self._anchors: list[npt.NDArray[np.int64]] = []

    @property
    def num_tokens(self) -> int:
        return self.token_stop - self._token_start

    def add(self, piece: str, encoded: Encoded, bytes_before: int) -> int:
        """Count one piece in; bytes of the text up to its end."""
        offsets = byte_offsets(piece)
        chars = encoded.char_starts[-self.num_tokens % ANCHOR_TOKENS :: ANCHOR_TOKENS]
        self._anchors.append(offsets[chars] + (bytes_before - self._byte_start))
        self.token_stop += len(encoded.token_ids)
        self._byte_stop = bytes_before + int(offsets[-1])
        return self._byte_stop

    def close(self) -> list[Extent]:
        if self.section is None or not self.num_tokens:
            return []
        return [
            Extent(
                source_id=0,
                token_start=self._token_start,
                token_stop=self.token_stop,
                byte_start=self._byte_start,
                byte_stop=self._byte_stop,
                title=self.section.title,
                role=self.section.role,
                time=self.section.time,
                anchors=np.concatenate(self._anchors).astype(np.int64),
            )
        ]


def byte_offsets(text: str) -> npt.NDArray[np.int64]:
    """UTF-8 offset of every character of ``text``, and of its end: int64 [len(text) + 1]."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(widths)])
