"""Server-sent events out of bytes that come in any pieces.

Lines end with LF, CR or CRLF, wherever a piece was cut; comments and fields that nobody asked for are passed over.
https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.6. JSON may hold the line ends of Unicode, so that
bytes are split, never text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from megacontext.errors import ServerError
from megacontext.units import MIB

__all__ = ["MOST_EVENT_BYTES", "event_data"]

MOST_EVENT_BYTES = 16 * MIB
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the very end may be half of a CRLF
_BOM = b"\xef\xbb\xbf"
# llama.cpp reports a failure in the middle of a stream in a field of that name
_FIELDS = (b"data", b"error")


def event_data(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of each event as text, those that ended only with the stream included.

    Raises: ServerError for an event of more than ``MOST_EVENT_BYTES``.
    """
    data: list[bytes] = []
    num_bytes = 0
    for line in _lines(pieces):
        if not line:
            if data:
                yield _text(data)
            data, num_bytes = [], 0
            continue
        field, _, value = line.partition(b":")
        if field in _FIELDS:
            data.append(value.removeprefix(b" "))
            num_bytes += len(value)
            if num_bytes > MOST_EVENT_BYTES:
                raise _too_long()
    if data:
        yield _text(data)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest, is_first = b"", True
    for piece in pieces:
        if not piece:
            continue
        *lines, rest = _LINE_END.split(rest + piece)
        if len(rest) > MOST_EVENT_BYTES:
            raise _too_long()
        for line in lines:
            yield line.removeprefix(_BOM) if is_first else line
            is_first = False
    if rest := rest.removesuffix(b"\r"):
        yield rest.removeprefix(_BOM) if is_first else rest


def _text(data: list[bytes]) -> str:
    return b"\n".join(data).decode("utf-8", errors="replace")


def _too_long() -> ServerError:
    return ServerError(
        f"the server sent one event of more than {MOST_EVENT_BYTES // MIB} MiB; this is no OpenAI-compatible API, "
        "check its URL"
    )
