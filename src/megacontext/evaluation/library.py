"""The real text that demo and benchmarks read: shipped novels and the source code of the Python that runs.

None of it was trained on as far as possible: no book of these authors, and first of all the packages of the standard
library that training leaves out; only a library larger than those takes the other packages too.
"""

from __future__ import annotations

import json
import lzma
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from random import Random

from megacontext.errors import InvalidValueError
from megacontext.ports.text import TextCodec

__all__ = ["HELD_OUT_PACKAGES", "Library", "Text", "assemble_library", "installed_code", "shipped_books"]

HELD_OUT_PACKAGES = (
    *("asyncio", "email", "unittest", "json", "http", "xml", "logging", "multiprocessing", "concurrent", "importlib"),
    *("sqlite3", "tkinter", "curses", "dbm", "wsgiref", "urllib"),
)
"""Packages of the standard library that no training run reads."""

SKIPPED_FOLDERS = frozenset(
    "test tests idle_test __pycache__ site-packages dist-packages lib2to3 encodings pydoc_data idlelib".split()
)
SMALLEST_FILE_CHARS = 1_000
LARGEST_FILE_CHARS = 200_000
BOOK_SHARE = 0.6
HELD_BACK_SHARE = 0.12
SAMPLE_CHARS = 20_000

BLANK_LINE = re.compile(r"\n\n+")
TOP_LEVEL_LINE = re.compile(r"\n(?=(?:class|def|async def|@|[A-Za-z_]+ = ))")


@dataclass(frozen=True, kw_only=True)
class Text:
    """One document. name: also a relative file name; kind: ``book`` or ``code``; title: for people."""

    name: str
    kind: str
    title: str
    text: str

    def cut(self, num_chars: int) -> tuple[Text, str]:
        """The document up to a natural border (paragraph or definition) near ``num_chars``, and the rest."""
        pattern = TOP_LEVEL_LINE if self.kind == "code" else BLANK_LINE
        match = pattern.search(self.text, min(num_chars, len(self.text)))
        border = match.end() if match else min(num_chars, len(self.text))
        return replace(self, text=self.text[:border]), self.text[border:]


@dataclass(frozen=True, kw_only=True)
class Library:
    """What is read, in order, and how each text goes on afterwards (held back, the same order)."""

    texts: tuple[Text, ...]
    held_back: tuple[str, ...]


def shipped_books() -> list[Text]:
    """The five novels that come with the package."""
    data = files("megacontext.evaluation").joinpath("texts", "books.jsonl.xz").read_bytes()
    books = (json.loads(line) for line in lzma.decompress(data).decode("utf-8").splitlines())
    return [
        Text(name=f"books/{book['id']}.txt", kind="book", title=f"{book['title']}, {book['author']}", text=book["text"])
        for book in books
    ]


def installed_code(root: Path | None = None) -> Iterator[Text]:
    """The modules of the standard library found installed: the packages held out from training, then the others."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    held_out = [root / name for name in HELD_OUT_PACKAGES if (root / name).is_dir()]
    others = [
        path
        for path in sorted(root.iterdir())
        if path.is_dir() and path not in held_out and path.name not in SKIPPED_FOLDERS
    ]
    for folder in [*held_out, *others]:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            text = _readable(path)
            if text and SKIPPED_FOLDERS.isdisjoint(Path(name).parts):
                yield Text(name=f"code/{name}", kind="code", title=name, text=text)


def assemble_library(
    codec: TextCodec, *, num_tokens: int, seed: int, books: Sequence[Text] | None = None, root: Path | None = None
) -> Library:
    """Real text of at least ``num_tokens`` tokens in a random order of whole documents, books and packages mixed.

    The end of every book and of every longer module is held back, as text to go on with. Raises InvalidValueError if
    the installed text is too short.
    """
    books = shipped_books() if books is None else books
    pairs = _take_books(codec, books, int(num_tokens * BOOK_SHARE))
    pairs += _take_code(codec, installed_code(root), num_tokens - sum(tokens for tokens, *_ in pairs))
    found = sum(tokens for tokens, *_ in pairs)
    if found < num_tokens:
        raise InvalidValueError(f"{num_tokens:,} tokens of text are not installed here; ask for at most {found:,}")
    Random(seed).shuffle(pairs)
    return Library(texts=tuple(text for _, text, _ in pairs), held_back=tuple(rest for *_, rest in pairs))


def _take_books(codec: TextCodec, books: Sequence[Text], num_tokens: int) -> list[tuple[int, Text, str]]:
    """The same share of every book, so that each has an unread end."""
    sizes = [_estimated_tokens(codec, book) for book in books]
    share = min(1.0 - HELD_BACK_SHARE, num_tokens / max(1, sum(sizes)))
    pairs = []
    for size, book in zip(sizes, books, strict=True):
        read, rest = book.cut(int(len(book.text) * share))
        pairs.append((int(size * len(read.text) / len(book.text)), read, rest))
    return pairs


def _take_code(codec: TextCodec, modules: Iterator[Text], num_tokens: int) -> list[tuple[int, Text, str]]:
    """Modules in order until there are tokens enough."""
    pairs: list[tuple[int, Text, str]] = []
    missing = num_tokens
    while missing > 0 and (module := next(modules, None)) is not None:
        read, rest = module.cut(int(len(module.text) * (1.0 - HELD_BACK_SHARE)))
        tokens = _estimated_tokens(codec, read)
        pairs.append((tokens, read, rest))
        missing -= tokens
    return pairs


def _estimated_tokens(codec: TextCodec, text: Text) -> int:
    """Tokens of a text from two samples of it; never more than two percent too many, which is enough to aim by."""
    middle = len(text.text) // 2
    sample = text.text[:SAMPLE_CHARS] if len(text.text) <= SAMPLE_CHARS else text.text[middle:][:SAMPLE_CHARS]
    return int(0.98 * len(codec.encode(sample).token_ids) * len(text.text) / max(1, len(sample)))


def _readable(path: Path) -> str:
    """The text of a module; '' if it is no UTF-8, tiny, huge or a table of foreign letters."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    if not SMALLEST_FILE_CHARS <= len(text) <= LARGEST_FILE_CHARS:
        return ""
    return text if sum(ord(char) > 127 for char in text) <= 0.01 * len(text) else ""
