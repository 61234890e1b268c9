"""Training text and what is kept out of it.

Three domains: `books` (one document a book), `code` (one document a package: its files in order, so that a long
window sees a whole project) and `knowledge` (one document a page). Hold-outs are by whole book, package or page and
depend on the name alone, so that two machines hold out the same things.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megacontext.errors import InvalidValueError

HELD_OUT_STANDARD_LIBRARY = frozenset(
    """
    asyncio email unittest json http xml logging multiprocessing concurrent importlib sqlite3 tkinter curses dbm
    wsgiref urllib
    """.split()
)
"""Standard-library packages that no training run reads: demos and validation use them as unseen text."""

HELD_OUT_PACKAGES = frozenset(["docker", "dotenv", "flask", "jinja2", "referencing", "rich", "werkzeug"])
"""Installed packages that no training run reads: with the standard-library ones, the validation code."""

HELD_OUT_PAGE_SHARE = 0.05

SKIPPED_FOLDERS = frozenset(
    """
    test tests testing idle_test pydoc_data encodings __pycache__ site-packages _vendor vendor third_party
    lib2to3 externals extern importlib_metadata importlib_resources locale locales
    """.split()
)
"""Folders that teach little (tests, tables) or hide copies of held-out packages (vendored code)."""

SMALLEST_FILE_CHARS = 400
LARGEST_FILE_CHARS = 200_000
MOST_NON_ASCII_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text that stays whole: a book, a package, a page."""

    name: str
    domain: str
    text: str


def stable_share(name: str) -> float:
    """Map a name to [0, 1), the same on every machine and in every process (unlike `hash`)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def read_json_lines(path: Path) -> Iterator[dict[str, str]]:
    """Yield the records of an xz-compressed JSON-lines file; raises InvalidValueError if it is not there."""
    if not path.is_file():
        raise InvalidValueError(f"{path} does not exist; give the folder that holds {path.parent.name}/{path.name}")
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_books(data: Path, split: str) -> Iterator[Document]:
    """Yield the books of `split` (`train` or `validation`) below the data folder."""
    if split not in ("train", "validation"):
        raise InvalidValueError(f"split {split!r} is not readable here: expected 'train' or 'validation'")
    for record in read_json_lines(data / "books" / f"books_{split}.jsonl.xz"):
        yield Document(name=record["id"], domain="books", text=record["text"])


def read_knowledge(data: Path, *, held_out: bool) -> Iterator[Document]:
    """Yield the documentation pages that are (or are not) held out."""
    for record in read_json_lines(data / "knowledge" / "docs.jsonl.xz"):
        if (stable_share(record["id"]) < HELD_OUT_PAGE_SHARE) == held_out:
            yield Document(name=record["id"], domain="knowledge", text=record["text"])


def read_standard_library(*, held_out: bool, max_chars: int = 12_000_000) -> Iterator[Document]:
    """Yield the running Python's own packages; its single modules come as one document."""
    root = Path(sysconfig.get_paths()["stdlib"])
    if not held_out:
        modules = [path for path in sorted(root.glob("*.py")) if path.stem not in HELD_OUT_STANDARD_LIBRARY]
        yield from _document("stdlib", modules, root, max_chars)
    for folder in _package_folders(root):
        if (folder.name in HELD_OUT_STANDARD_LIBRARY) == held_out:
            yield from _document(f"stdlib/{folder.name}", _python_files(folder, held_out=held_out), root, max_chars)


def read_packages(roots: Iterable[Path], *, held_out: bool, max_chars: int = 4_000_000) -> Iterator[Document]:
    """Yield installed packages, each name once (from the first root that has it), at most `max_chars` of each."""
    seen: set[str] = set()
    for root in roots:
        for folder in _package_folders(root):
            if folder.name in seen or folder.name in HELD_OUT_STANDARD_LIBRARY or folder.name == "megacontext":
                continue
            seen.add(folder.name)
            if (folder.name in HELD_OUT_PACKAGES) == held_out:
                yield from _document(folder.name, _python_files(folder, held_out=held_out), root, max_chars)


def _package_folders(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.iterdir())
        if path.is_dir() and path.name not in SKIPPED_FOLDERS and not path.name.endswith((".dist-info", ".libs"))
    ]


def _python_files(folder: Path, *, held_out: bool) -> list[Path]:
    """The modules of a package, without the ones that could be copies of held-out packages."""
    unwanted = SKIPPED_FOLDERS if held_out else SKIPPED_FOLDERS | HELD_OUT_STANDARD_LIBRARY | HELD_OUT_PACKAGES
    found = []
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder)
        if not unwanted.intersection((*inner.parts[:-1], inner.stem)):
            found.append(path)
    return found


def _document(name: str, files: list[Path], root: Path, max_chars: int) -> Iterator[Document]:
    """Join files under header lines; skip what is tiny, huge, unreadable or mostly tables of foreign letters."""
    parts: list[str] = []
    num_chars = 0
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if not SMALLEST_FILE_CHARS <= len(text) <= LARGEST_FILE_CHARS:
            continue
        if sum(ord(char) > 127 for char in text) > MOST_NON_ASCII_SHARE * len(text):
            continue
        parts.append(f"# file: {path.relative_to(root).as_posix()}\n{text}\n")
        num_chars += len(text)
        if num_chars >= max_chars:
            break
    if parts:
        yield Document(name=name, domain="code", text="".join(parts))
