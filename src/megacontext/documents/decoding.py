"""Bytes to text, strictly: UTF-8, or UTF-16 and UTF-32 that say so with a byte-order mark.

There is no fallback to a one-byte encoding, since it would take any bytes for text and garble them silently; such a
file is refused with the command that converts it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from megacontext.errors import NotTextError

__all__ = ["HEAD_BYTES", "TextDecoder", "decode_text", "encodings_of", "is_binary", "without_surrogates"]

HEAD_BYTES = 8192  # of a file say what it is

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
    head = raw[:HEAD_BYTES]
    if head.startswith(_SIGNATURES):
        return True
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return False
    return b"\0" in head or len(head.translate(None, _CONTROLS)) < 0.9 * len(head)


class TextDecoder:
    """Bytes that arrive in pieces to text, without their byte-order mark.

    head: the first bytes, at least four of them if there are as many; they are not decoded yet. name: for messages.
    """

    def __init__(self, head: bytes, name: str) -> None:
        self._name = name
        self._encoding, mark = next(((code, mark) for mark, code in _MARKS if head.startswith(mark)), ("utf-8", b""))
        self._num_mark_bytes = len(mark)
        self._decoder = codecs.getincrementaldecoder(self._encoding)()
        self._num_bytes = self._num_chars = 0

    @property
    def is_its_own_text(self) -> bool:
        """Whether the bytes are their text in UTF-8."""
        return self._encoding == "utf-8" and not self._num_mark_bytes

    def add(self, data: bytes, *, is_last: bool = False) -> str:
        """The text of the next bytes; a character that is not whole yet waits for them.

        Raises: NotTextError naming the first byte that does not fit.
        """
        skipped = min(len(data), max(0, self._num_mark_bytes - self._num_bytes))
        before = self._num_bytes + skipped - len(self._decoder.getstate()[0])
        self._num_bytes += len(data)
        try:
            text = self._decoder.decode(data[skipped:] if skipped else data, is_last)
        except UnicodeDecodeError as error:
            raise NotTextError(
                f"{self._name} is not {self._encoding.upper()}: byte 0x{error.object[error.start]:02x} at "
                f"{before + error.start}; {self._advice(error)}"
            ) from error
        if "\0" in text:
            place = self._num_chars + text.index("\0")
            raise NotTextError(f"{self._name} has a zero character at {place}; it is no text file")
        self._num_chars += len(text)
        return text

    def _advice(self, error: UnicodeDecodeError) -> str:
        if error.end == len(error.object) and error.reason.startswith(("unexpected end", "truncated")):
            return "it ends amid a character: get the whole of it"
        if self._encoding == "utf-8":
            return "convert it first, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        return "it is damaged: get it once more, or save it as UTF-8"


def decode_text(raw: bytes, name: str) -> str:
    """The text of ``raw``, without its byte-order mark.

    Raises: NotTextError naming the first byte that does not fit.
    """
    return TextDecoder(raw, name).add(raw, is_last=True)


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
