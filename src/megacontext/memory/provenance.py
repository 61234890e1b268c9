"""From a token range to its sources, word for word: which file, which bytes, which lines."""

from __future__ import annotations

from megacontext.memory.encoding import ANCHOR_TOKENS
from megacontext.memory.line_numbers import LineNumbers
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import Quotation
from megacontext.memory.source_texts import SourceTexts
from megacontext.ports.catalog import Extent, Source

__all__ = ["Quoter", "share_of"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_CHARACTER_TOKENS = 4  # a character has at most four bytes
_ANCHORS_BACK = 8


class Quoter:
    """Quotes sources from their own text, not from tokens."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader
        self._lines = LineNumbers(parts)

    def quotations(self, start: int, stop: int, whole_tokens: int = 0) -> list[Quotation]:
        """One quotation per extent that [start, stop) touches, in order; whole of those of ``whole_tokens`` or less.

        Raises: InvalidValueError; CorruptionError if a source's text is damaged.
        """
        start, stop = self._reader.valid_span(start, stop)
        if start == stop:
            return []
        quotations: list[Quotation] = []
        texts = SourceTexts(self._parts)
        for source, extent in self._parts.catalog.extents(start, stop):
            begin, end = share_of(extent, start, stop, whole_tokens)
            if not source.text_digest:
                quotations.append(self._token_quotation(source, extent, begin, end))
                continue
            quotations.append(self._text_quotation(source, extent, begin, end, texts))
        return quotations

    def _token_quotation(self, source: Source, extent: Extent, start: int, stop: int) -> Quotation:
        """Of tokens that were appended as such: what they decode to."""
        text = self._parts.codec.decode(self._reader.tokens(start, stop))
        return _quotation(source, extent, (start, stop), (0, 0), (0, 0), text, exact=True)

    def _text_quotation(self, source: Source, extent: Extent, start: int, stop: int, texts: SourceTexts) -> Quotation:
        text = texts.of(source, extent)
        byte_start, exact_start = self._byte_of(extent, start, text, up=False)
        byte_stop, exact_stop = self._byte_of(extent, stop, text, up=True)
        first, last = 0, 0
        if source.text_digest == source.raw_digest:  # else they would be lines of a text that nobody has as a file
            first = self._lines.before(source, extent.byte_start, texts) + text.count(b"\n", 0, byte_start) + 1
            last = first + text.count(b"\n", byte_start, max(byte_start, byte_stop - 1))
        quote = text[byte_start:byte_stop].decode("utf-8", "replace")
        span = (extent.byte_start + byte_start, extent.byte_start + byte_stop)
        exact = exact_start and exact_stop
        return _quotation(source, extent, (start, stop), span, (first, last), quote, exact=exact)

    def _byte_of(self, extent: Extent, token: int, text: bytes, *, up: bool) -> tuple[int, bool]:
        """Where a token begins in the text of its extent, and whether that is exact.

        From an anchor before it, the decoded tokens must stand in the text letter by letter; a character that is made
        of several tokens counts to the quotation whole, on whichever side. If a tokenizer's decoding differs from the
        text, the anchors before and behind are the answer.
        """
        if token == extent.token_stop:
            return len(text), True
        offset = token - extent.token_start
        before, behind = offset // ANCHOR_TOKENS, -(-offset // ANCHOR_TOKENS)
        if offset == 0 or (before == behind and not up):
            return _anchor(extent, before, text), True
        for anchor in range(behind - 1, max(-1, behind - 1 - _ANCHORS_BACK), -1):  # one may stand amid a character
            decoded = self._parts.codec.decode(self._reader.tokens(extent.token_start + anchor * ANCHOR_TOKENS, token))
            position = _matched(text, _anchor(extent, anchor, text), decoded, up=up)
            if position is not None and (decoded.strip(_REPLACEMENT) or anchor == 0):  # more than pieces of a character
                return position, True
        return _anchor(extent, behind if up else before, text), False


def share_of(extent: Extent, start: int, stop: int, whole_tokens: int = 0) -> tuple[int, int]:
    """What an extent has of [start, stop); all of it if it has ``whole_tokens`` or less."""
    if extent.token_stop - extent.token_start <= whole_tokens:
        return extent.token_start, extent.token_stop
    return max(start, extent.token_start), min(stop, extent.token_stop)


def _anchor(extent: Extent, number: int, text: bytes) -> int:
    """Where the extent's token ``ANCHOR_TOKENS * number`` begins in its text; its end behind the last."""
    return int(extent.anchors[number]) if number < len(extent.anchors) else len(text)


def _matched(text: bytes, base: int, decoded: str, *, up: bool) -> int | None:
    """Where ``decoded`` ends in the text if it stands there at ``base``; a last character that is not whole shows as
    replacement characters, and ends behind itself (``up``) or before."""
    for num_cut in range(_MAX_CHARACTER_TOKENS):
        whole = decoded[: len(decoded) - num_cut].encode("utf-8", "replace")
        if text.startswith(whole, base):
            position = base + len(whole)
            return _next_character(text, position) if num_cut and up else position
        if not decoded[: len(decoded) - num_cut].endswith(_REPLACEMENT):
            return None
    return None


def _next_character(text: bytes, position: int) -> int:
    """Behind the UTF-8 character that begins at ``position``."""
    position += 1
    while position < len(text) and text[position] & 0xC0 == 0x80:
        position += 1
    return position


def _quotation(
    source: Source,
    extent: Extent,
    tokens: tuple[int, int],
    span: tuple[int, int],
    lines: tuple[int, int],
    text: str,
    *,
    exact: bool,
) -> Quotation:
    return Quotation(
        source_id=source.source_id,
        uri=source.uri,
        version=source.version,
        kind=source.kind,
        title=extent.title,
        role=extent.role or source.role,
        author=source.author,
        licence=source.licence,
        labels=source.labels,
        time=extent.time or source.created_at,
        token_start=tokens[0],
        token_stop=tokens[1],
        byte_start=span[0],
        byte_stop=span[1],
        line_start=lines[0],
        line_stop=lines[1],
        text=text,
        exact=exact,
    )
