"""What a parser makes of one file: its text, and the sections that tile it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

__all__ = ["Document", "Parsed", "Section", "name_of", "one_section"]

_FILE = "file://"


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


def name_of(uri: str) -> str:
    """What people call a source: the path of a file, or the name that a text was given.

    >>> name_of("file:///home/ada/to%20do.md")
    '/home/ada/to do.md'
    """
    return unquote(uri.removeprefix(_FILE)) if uri.startswith(f"{_FILE}/") else uri
