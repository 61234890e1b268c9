"""Sources as another tokenizer sees them: the same texts, cut into the same pieces, as other tokens.

A text comes from the blob that holds it; the sections that its parser found are read off its extents. Tokens that were
appended as such have no text but what they decode to. What was erased stays as long as it was, in line ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from megacontext.documents.document import Section, name_of, one_section
from megacontext.errors import CorruptionError, EmptySourceError
from megacontext.memory.arrivals import LongSource
from megacontext.memory.encoding import BATCH_PIECES, EXTENT_TOKENS, PieceCutter, SectionEncoder, encode_sections
from megacontext.memory.erase import NEUTRAL_TEXT
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.source_texts import SourceTexts
from megacontext.memory.writing import Draft, DraftPiece
from megacontext.ports.catalog import ERASED, Extent, Source
from megacontext.ports.text import TextCodec

__all__ = ["Retokenizer", "is_erased", "is_tokens"]

_LONG_TOKENS = 1 << 20  # of a source, beyond which it comes in pieces

Tokens = npt.NDArray[np.uint32]


class Retokenizer:
    """Reads sources of one memory and drafts them for another. codec: of that other."""

    def __init__(self, parts: Parts, reader: TreeReader, codec: TextCodec) -> None:
        self._parts = parts
        self._reader = reader
        self._codec = codec
        self._texts = SourceTexts(parts)

    def drafted(self, source: Source) -> Draft | LongSource:
        """A source ready to be committed.

        Raises: CorruptionError naming the source whose text is missing or damaged, EmptySourceError.
        """
        is_known = is_erased(source) or not is_tokens(source)  # how many bytes it has, before it is made
        if is_known and source.token_stop - source.token_start > _LONG_TOKENS:
            return LongSource(
                uri=source.uri,
                num_bytes=source.num_bytes,
                source=lambda: source,
                pieces=lambda: self._pieces(source),
                named=True,
            )
        pieces = list(self._pieces(source))
        token_ids = np.concatenate([piece.token_ids for piece in pieces])
        num_bytes = source.num_bytes if is_known else token_ids.nbytes
        return Draft(
            source=dataclasses.replace(source, token_start=0, token_stop=len(token_ids), num_bytes=num_bytes),
            token_ids=token_ids,
            extents=[extent for piece in pieces for extent in piece.extents],
        )

    def is_lossy(self, source: Source) -> bool:
        """Whether tokens that were appended as such are others once they were text, here or for the other codec."""
        if not is_tokens(source) or is_erased(source):
            return False
        token_ids = self._reader.tokens(source.token_start, source.token_stop)
        text = self._parts.codec.decode(token_ids)
        if not text or not np.array_equal(encoded(text, self._parts.codec), token_ids):
            return True
        return self._codec.decode(encoded(text, self._codec)) != text

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _pieces(self, source: Source) -> Generator[DraftPiece]:
        extents = self._extents(source)
        if is_erased(source):
            yield from self._erased(source, extents)
        elif is_tokens(source):
            yield self._tokens(source, extents)
        else:
            yield from self._text(source, extents)

    def _extents(self, source: Source) -> Iterator[Extent]:
        """Those of a source in order, so many at a time that their anchors are no burden."""
        position = source.token_start
        while position < source.token_stop:
            window_stop = min(position + _LONG_TOKENS, source.token_stop)
            for _, extent in self._parts.catalog.extents(position, window_stop):
                if extent.token_stop > position:
                    position = extent.token_stop
                    yield extent

    def _erased(self, source: Source, extents: Iterable[Extent]) -> Iterator[DraftPiece]:
        for extent in extents:
            start, stop = extent.token_start - source.token_start, extent.token_stop - source.token_start
            placed = dataclasses.replace(extent, token_start=start, token_stop=stop)
            yield DraftPiece(token_ids=self._neutral(stop - start), extents=[placed], num_bytes=4 * (stop - start))

    def _tokens(self, source: Source, extents: Iterable[Extent]) -> DraftPiece:
        """What they decode to, as tokens again: a source of tokens stays one, and may be continued."""
        text = self._parts.codec.decode(self._reader.tokens(source.token_start, source.token_stop))
        token_ids = encoded(text, self._codec)
        if not len(token_ids):
            token_ids = self._neutral(1)
        extent = dataclasses.replace(
            next(iter(extents)), token_start=0, token_stop=len(token_ids), byte_start=0, byte_stop=token_ids.nbytes
        )
        return DraftPiece(token_ids=token_ids, extents=[extent], num_bytes=token_ids.nbytes)

    def _neutral(self, num_tokens: int) -> Tokens:
        return np.full(num_tokens, self._codec.encode(NEUTRAL_TEXT).token_ids[0], np.uint32)

    def _text(self, source: Source, extents: Iterable[Extent]) -> Iterator[DraftPiece]:
        encoder = SectionEncoder(self._codec)
        num_tokens = num_bytes = 0
        waiting: list[tuple[Section, str]] = []
        for section, stretches in _sections(extents):
            cutter = PieceCutter()
            for start, stop in stretches:
                waiting += [(section, piece) for piece in cutter.add(self._read(source, start, stop))]
                num_bytes += stop - start
                if len(waiting) >= BATCH_PIECES:
                    token_ids, ended = encoder.add(waiting)
                    waiting = []
                    num_tokens += sum(map(len, token_ids))
                    yield DraftPiece(token_ids=_joined(token_ids), extents=ended, num_bytes=num_bytes)
                    num_bytes = 0
            waiting += [(section, piece) for piece in cutter.finish()]
        token_ids, ended = encoder.add(waiting)
        if not num_tokens + sum(map(len, token_ids)):
            raise EmptySourceError(
                f"{name_of(source.uri)} has no text for that tokenizer (0 tokens); erase it, or take another base"
            )
        yield DraftPiece(token_ids=_joined(token_ids), extents=ended + encoder.finish(), num_bytes=num_bytes)

    def _read(self, source: Source, start: int, stop: int) -> str:
        try:
            data = self._texts.part(source, start, stop)
            if len(data) == stop - start:
                return data.decode("utf-8")
            reason = f"its text ends at byte {start + len(data)} instead of {stop}"
        except CorruptionError as error:
            reason = str(error).partition(";")[0]
        except UnicodeDecodeError as error:
            reason = f"its text is no UTF-8 behind byte {start + error.start}"
        raise CorruptionError(
            f"{name_of(source.uri)} cannot be read ({reason}); run `megacontext check --repair` or erase it, then go on"
        )


def encoded(text: str, codec: TextCodec) -> Tokens:
    """Token ids of a text without sections, cut into pieces as every text is."""
    return encode_sections(text, one_section(text).sections, codec)[0]


def is_tokens(source: Source) -> bool:
    """Whether a source has no text of its own."""
    return not source.text_digest


def is_erased(source: Source) -> bool:
    return is_tokens(source) and source.uri == f"{ERASED}{source.source_id}"


def _joined(token_ids: Sequence[Tokens]) -> Tokens:
    return np.concatenate([np.empty(0, np.uint32), *token_ids])


def _sections(extents: Iterable[Extent]) -> Iterator[tuple[Section, list[tuple[int, int]]]]:
    """Sections in order, each with the byte ranges of its text.

    A section of more than ``EXTENT_TOKENS`` has several extents, one that gave no tokens has none: its text lies
    between those of others.
    """
    stretches: list[tuple[int, int]] = []
    last: Extent | None = None
    position = 0
    for extent in extents:
        goes_on = last is not None and _is_continued(last, extent)
        if not goes_on and last is not None:
            yield _section(last), stretches
            stretches = []
        if extent.byte_start > position:
            yield Section(char_start=0, char_stop=0), [(position, extent.byte_start)]
        stretches.append((extent.byte_start, extent.byte_stop))
        last, position = extent, extent.byte_stop
    if last is not None:
        yield _section(last), stretches


def _section(extent: Extent) -> Section:
    """Where it ends is not known here, and not asked."""
    return Section(char_start=0, char_stop=0, title=extent.title, role=extent.role, time=extent.time)


def _is_continued(extent: Extent, following: Extent) -> bool:
    is_full = extent.token_stop - extent.token_start >= EXTENT_TOKENS
    said = (extent.title, extent.role, extent.time, extent.byte_stop)
    return is_full and said == (following.title, following.role, following.time, following.byte_start)
