"""Plain text, Markdown and source code: kept letter by letter, line ends included."""

from __future__ import annotations

from megacontext.documents.decoding import decode_text
from megacontext.documents.document import Parsed, one_section

__all__ = ["parse"]


def parse(raw: bytes, name: str) -> Parsed:
    """Raises: NotTextError."""
    return one_section(decode_text(raw, name))
