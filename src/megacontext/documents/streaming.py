"""A long text file in pieces: whatever its length, only a piece of it is in memory at a time.

It is read twice. The survey finds what the source is called by (the digests of its bytes and of its text) and whatever
is wrong with it, long before a gigabyte of it was encoded for nothing; it runs at the speed of sha256, some hundred
times that of a tokenizer. The pieces come with the second reading, which has to meet the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from megacontext.documents.decoding import TextDecoder
from megacontext.documents.loading import OpenFile
from megacontext.errors import EmptySourceError, UnreadableSourceError

__all__ = ["TextStream", "survey"]


@dataclass(frozen=True, kw_only=True)
class TextStream:
    """A file that was surveyed. raw_digest, text_digest: sha256 of its bytes and of its text in UTF-8; given: the file
    where it was open already."""

    path: Path
    given: IO[bytes] | None
    uri: str
    kind: str
    num_bytes: int
    raw_digest: str
    text_digest: str

    def pieces(self) -> Iterator[tuple[bytes, str]]:
        """Bytes and the text that ends in them, from the beginning on.

        Raises: UnreadableSourceError, at the latest before the last piece, if it is not the file that was surveyed.
        """
        digest = hashlib.sha256()
        num_read = 0
        with OpenFile(self.path, self.given) as file:
            decoder = TextDecoder(file.head, str(self.path))
            for data in file.pieces():
                digest.update(data)
                num_read += len(data)
                is_last = num_read >= self.num_bytes
                if is_last and digest.hexdigest() != self.raw_digest:
                    break
                yield data, decoder.add(data, is_last=is_last)
        if digest.hexdigest() != self.raw_digest:
            raise UnreadableSourceError(
                f"{self.path} changed while it was read; ingest it again when nobody writes to it"
            )


def survey(file: OpenFile, uri: str, given: IO[bytes] | None = None) -> TextStream:
    """Read a file through once. given: what it was opened from, if not from its path.

    Raises: NotTextError, EmptySourceError, UnreadableSourceError.
    """
    raw, text = hashlib.sha256(), hashlib.sha256()
    decoder = TextDecoder(file.head, str(file.path))
    is_blank = True
    num_read = 0
    for data in file.pieces():
        num_read += len(data)
        raw.update(data)
        piece = decoder.add(data, is_last=num_read == file.num_bytes)
        is_blank = is_blank and not piece.strip()
        if decoder.is_its_own_text:
            continue
        text.update(piece.encode())
    if is_blank:
        raise EmptySourceError(f"{file.path} has no text in its {num_read} bytes; leave it out")
    raw_digest = raw.hexdigest()
    return TextStream(
        path=file.path,
        given=given,
        uri=uri,
        kind=file.kind,
        num_bytes=num_read,
        raw_digest=raw_digest,
        text_digest=raw_digest if decoder.is_its_own_text else text.hexdigest(),
    )
