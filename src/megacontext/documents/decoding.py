"""Bytes to text, strictly: UTF-8, or UTF-16 and UTF-32 that say so with a byte-order mark.

There is no fallback to a one-byte encoding, since it would take any bytes for text and garble them silently; such a
file is refused with the command that converts it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from megacontext.errors import NotTextError

__all__ = ["decode_text", "encodings_of", "is_binary", "without_surrogates"]

_MARKS = (  # longest first: the UTF-32 mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"\x1f\x8b", b"\x7fELF", b"BZh", b"\xfd7zXZ")
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\b\x1b")


def is_binary(raw: bytes) -> bool:
    """Whether bytes are no text at all: a known signature, zero bytes, or mostly control codes.

    Looks at the first 8 KiB, as git does. Text in an unknown encoding is not binary.
    """
    head = raw[:8192]
    if head.startswith(_SIGNATURES):
        return True
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return False
    return b"\0" in head or len(head.translate(None, _CONTROLS)) < 0.9 * len(head)


def decode_text(raw: bytes, name: str) -> str:
    """The text of ``raw``, without its byte-order mark.

    Raises: NotTextError naming the first byte that does not fit.
    """
    encoding, mark = next(((code, mark) for mark, code in _MARKS if raw.startswith(mark)), ("utf-8", b""))
    try:
        text = raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        raise NotTextError(
            f"{name} is not {encoding.upper()}: byte 0x{raw[place]:02x} at {place}; "
            "convert it first, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        ) from error
    if "\0" in text:
        raise NotTextError(f"{name} has a zero character at {text.index(chr(0))}; it is no text file")
    return text


def encodings_of(text: str) -> Iterator[bytes]:
    """Every way in which a file may hold ``text``, so that `decode_text` gives it back."""
    yield text.encode("utf-8")
    for mark, encoding in _MARKS:
        yield mark + text.encode(encoding)


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no encoding can carry, by U+FFFD; pairs become the character they mean."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
