"""Reading one file as it stands: whole, unchanged while it is read, or a clear error."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from megacontext.documents.document import Document
from megacontext.documents.registry import PARSERS, kind_of
from megacontext.errors import EmptySourceError, UnreadableSourceError

__all__ = ["load", "read_bytes"]


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file.

    Raises: UnreadableSourceError if it is missing, not a regular file, not permitted, or changes meanwhile;
    EmptySourceError if it has none.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise UnreadableSourceError(f"{path} is not a regular file; copy what it gives into one")
            raw = file.read()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise UnreadableSourceError(
            f"{path} cannot be read ({error.strerror}); check its name and permissions"
        ) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(raw) != after.st_size:
        raise UnreadableSourceError(f"{path} changed while it was read; ingest it again when nobody writes to it")
    if not raw:
        raise EmptySourceError(f"{path} is empty (0 bytes); leave it out")
    return raw


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting: a pipe that nobody writes to would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def load(path: Path, uri: str, raw: bytes) -> Document:
    """Parse the bytes of a file by its format.

    Raises: NotTextError, EmptySourceError.
    """
    kind = kind_of(path, raw)
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
