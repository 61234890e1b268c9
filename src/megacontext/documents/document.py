"""What a parser makes of one file: its text, and the sections that tile it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Document", "Parsed", "Section", "one_section"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A stretch of a document's text, in characters: a page, a message, a whole file. time: seconds since 1970."""

    char_start: int
    char_stop: int
    title: str = ""
    role: str = ""
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """Text and the sections that tile it, in order and without gaps."""

    text: str
    sections: Sequence[Section]
    author: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One source as it stands outside: its bytes, and what they say."""

    uri: str
    kind: str
    raw: bytes
    text: str
    sections: Sequence[Section] = field(default_factory=tuple)
    author: str = ""
    licence: str = ""


def one_section(text: str, *, title: str = "", role: str = "", time: float = 0.0) -> Parsed:
    """A text that is one piece."""
    return Parsed(text=text, sections=(Section(char_start=0, char_stop=len(text), title=title, role=role, time=time),))
