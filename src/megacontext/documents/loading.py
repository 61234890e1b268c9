"""Reading one file as it stands: whole or in pieces, unchanged while it is read, or a clear error.

Plain text from ``STREAM_BYTES`` on is read in pieces, so that no file is too large. Other formats are parsed whole,
and so refused beyond ``WHOLE_BYTES``: a parser takes several times what it reads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from megacontext.documents.decoding import HEAD_BYTES
from megacontext.documents.document import Document
from megacontext.documents.registry import PARSERS, is_plain, kind_of
from megacontext.errors import EmptySourceError, UnreadableSourceError
from megacontext.units import MIB, format_bytes

__all__ = ["STREAM_BYTES", "WHOLE_BYTES", "OpenFile", "load", "plain_document"]

STREAM_BYTES = MIB
WHOLE_BYTES = 256 * MIB
_PIECE_BYTES = MIB


class OpenFile:
    """A regular file being read. head: its first bytes.

    given: the file where it is open already, and may have no name on any disk; ``path`` is what messages call it then,
    and it is plain text.

    Raises: UnreadableSourceError if it is missing, not a regular file, not permitted, or changes meanwhile;
    EmptySourceError if it has no bytes.
    """

    def __init__(self, path: Path, given: IO[bytes] | None = None) -> None:
        self.path = path
        self._is_given = given is not None
        try:
            if given is None:
                self._file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  closed by __exit__
            else:
                self._file = os.fdopen(os.dup(given.fileno()), "rb")
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            self._before = os.fstat(self._file.fileno())
            if not stat.S_ISREG(self._before.st_mode):
                raise UnreadableSourceError(f"{path} is not a regular file; copy what it gives into one")
            self._seek(0)
            self.head = self._read(HEAD_BYTES)
            if not self.head:
                raise EmptySourceError(f"{path} is empty (no text in its 0 bytes); leave it out")
        except BaseException:
            self._file.close()
            raise

    @property
    def num_bytes(self) -> int:
        """How large it was when it was opened."""
        return self._before.st_size

    @property
    def is_streamed(self) -> bool:
        """Whether it is so long that it has to be read in pieces, and can be."""
        return self.num_bytes >= STREAM_BYTES and (self._is_given or is_plain(self.path, self.head))

    @property
    def kind(self) -> str:
        """What its name and its first bytes say, if nobody said it."""
        return "text" if self._is_given else kind_of(self.path, self.head)

    def whole(self) -> bytes:
        """All bytes.

        Raises: UnreadableSourceError also if there are more than ``WHOLE_BYTES``.
        """
        if self.num_bytes > WHOLE_BYTES:
            raise UnreadableSourceError(
                f"{self.path} has {format_bytes(self.num_bytes)}; of this format a file is read whole, up to "
                f"{format_bytes(WHOLE_BYTES)}: split it, or convert it to plain text, which may have any length"
            )
        return b"".join(self.pieces(self.num_bytes + 1))

    def pieces(self, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
        """All bytes from the first on, in order; the last piece is given out only if the file is as it was."""
        self._seek(0)
        num_read, piece = 0, self._read(piece_bytes)
        while piece:
            num_read += len(piece)
            following = self._read(piece_bytes)
            if not following:
                self._refuse_changed(num_read)
            yield piece
            piece = following

    def _refuse_changed(self, num_read: int) -> None:
        after = os.fstat(self._file.fileno())
        same = (self._before.st_size, self._before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if not same or num_read != after.st_size:
            raise UnreadableSourceError(
                f"{self.path} changed while it was read; ingest it again when nobody writes to it"
            )

    def _seek(self, place: int) -> None:
        try:
            self._file.seek(place)
        except OSError as error:
            raise self._unreadable(error) from error

    def _read(self, num_bytes: int) -> bytes:
        try:
            return self._file.read(num_bytes)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> UnreadableSourceError:
        return UnreadableSourceError(f"{self.path} cannot be read ({error.strerror}); check its name and permissions")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting: a pipe that nobody writes to would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def load(path: Path, uri: str, raw: bytes) -> Document:
    """Parse the bytes of a file by its format.

    Raises: NotTextError, EmptySourceError.
    """
    return _parsed(kind_of(path, raw), path, uri, raw)


def plain_document(uri: str, raw: bytes) -> Document:
    """The same for what has no file name to go by: plain text under some name."""
    return _parsed("text", Path(uri), uri, raw)


def _parsed(kind: str, path: Path, uri: str, raw: bytes) -> Document:
    parsed = PARSERS[kind](raw, str(path))
    if not parsed.text.strip():
        raise EmptySourceError(f"{path} has no text in its {len(raw)} bytes; leave it out")
    return Document(
        uri=uri,
        kind=kind,
        raw=raw,
        text=parsed.text,
        sections=parsed.sections,
        author=parsed.author,
        licence=parsed.licence,
    )
