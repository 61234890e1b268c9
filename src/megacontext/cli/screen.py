"""What verbs show: results on standard output, progress on standard error, colours on terminals only."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.console import Console

from megacontext.cli.visible import visible_json, visible_line

__all__ = [
    "counted",
    "error_console",
    "output_console",
    "place_of",
    "print_json",
    "quote",
    "shorten_uri",
]

QUOTE_CHARS = 160
# a table in a file or pipe is not cut to the width of a terminal that is not there
PIPED_WIDTH = 200
NARROWEST = 20


class _Console(Console):
    """rich's console, but a reader that went away is for ``main`` to handle."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output_console() -> Console:
    """Standard output."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=_columns() or PIPED_WIDTH)


def error_console() -> Console:
    """Standard error, for progress and errors."""
    return _Console(stderr=True, highlight=False)


def print_json(data: object) -> None:
    """One JSON document on standard output; numbers that are none (an error that nobody knows) are null."""
    text = json.dumps(_jsonable(data), ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write(visible_json(text) + "\n")


def quote(text: str, about: str = "", limit: int = QUOTE_CHARS) -> str:
    """One line of text: white space and control characters are single spaces. What is longer than ``limit`` is cut,
    around the longest word of ``about`` that it holds.

    >>> quote("a long way to the harbour, and back again", about="Harbour?", limit=20)
    '… the harbour, and …'
    """
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if len(line) <= limit:
        return line
    words = sorted(re.findall(r"\w+", about.casefold()), key=len, reverse=True)
    places = [line.casefold().find(word) for word in words]
    place = next((place for place in places if place >= 0), 0)
    start = max(0, min(place - limit // 3, len(line) - limit + 1))
    piece = line[start + (start > 0) : start + limit - 1]
    return ("…" if start else "") + piece + ("…" if start + limit - 1 < len(line) else "")


def counted(number: int, what: str) -> str:
    """``1 source``, ``1,024 sources``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shorten_uri(uri: str) -> str:
    """``file:///home/me/notes/a.md`` as a path, relative if it is below the current folder; line ends, control
    characters and bytes that are no UTF-8 are escaped."""
    return visible_line(_path_of(uri))


def _path_of(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:  # any text may be a source's name
        return uri
    if parts.scheme != "file":
        return uri
    path = Path(unquote(parts.path, errors="surrogateescape"))
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the current folder is gone
        return str(path)


def place_of(uri: str, line_start: int, line_stop: int) -> str:
    """``notes.md:12-14``: what editors and people click on."""
    name = shorten_uri(uri)
    if not line_start:
        return name
    return f"{name}:{line_start}" if line_stop <= line_start else f"{name}:{line_start}-{line_stop}"


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    return max(NARROWEST, int(columns)) if columns.isdecimal() and int(columns) else 0


def _jsonable(data: object) -> Any:
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: _jsonable(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, Mapping):
        return {str(key): _jsonable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_jsonable(item) for item in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
