"""Training text and what is kept out of it.

Three domains: `books` (one document a book), `code` (one document a package: its files in order, so that a long
window sees a whole project) and `knowledge` (one document a page). Code is read as files, which can be judged one by
one, and then joined. Hold-outs are by whole book, package or page and
depend on the name alone, so that two machines hold out the same things.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from megacontext.documents.records import Record, read_records, text_field
from megacontext.errors import InvalidValueError

__all__ = [
    "BOOKS",
    "KNOWLEDGE",
    "Document",
    "join_projects",
    "limit_projects",
    "package_files",
    "package_listings",
    "read_books",
    "read_knowledge",
    "read_packages",
    "read_standard_library",
    "readable",
    "stable_share",
    "standard_library_files",
    "unreadable_because",
]

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

BOOKS = {split: f"books/books_{split}.jsonl.xz" for split in ("train", "validation")}
KNOWLEDGE = "knowledge/docs.jsonl.xz"
"""Files of records below the data folder."""

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
MOST_STANDARD_LIBRARY_CHARS = 12_000_000
MOST_PACKAGE_CHARS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text that stays whole: a book, a page, a package, or one of its files, which names it as its `project`."""

    name: str
    domain: str
    text: str
    project: str = ""


def stable_share(name: str) -> float:
    """Map a name to [0, 1), the same on every machine and in every process (unlike `hash`)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def read_books(data: Path, split: str) -> Iterator[Document]:
    """Yield the books of `split` (`train` or `validation`) below the data folder."""
    if split not in BOOKS:
        raise InvalidValueError(f"split {split!r} is not readable here: expected 'train' or 'validation'")
    yield from read_records(data / BOOKS[split], lambda record: _document(record, "books"))


def read_knowledge(data: Path, *, held_out: bool) -> Iterator[Document]:
    """Yield the documentation pages that are (or are not) held out."""
    for page in read_records(data / KNOWLEDGE, lambda record: _document(record, "knowledge")):
        if (stable_share(page.name) < HELD_OUT_PAGE_SHARE) == held_out:
            yield page


def _document(record: Record, domain: str) -> Document:
    return Document(name=text_field(record, "id"), domain=domain, text=text_field(record, "text"))


def read_standard_library(*, held_out: bool) -> Iterator[Document]:
    """Yield the running Python's own packages; its single modules come as one document."""
    yield from join_projects(limit_projects(readable(standard_library_files(held_out=held_out))))


def read_packages(roots: Iterable[Path], *, held_out: bool, max_chars: int = MOST_PACKAGE_CHARS) -> Iterator[Document]:
    """Yield installed packages, each name once (from the first root that has it), at most `max_chars` of each."""
    yield from join_projects(limit_projects(readable(package_files(roots, held_out=held_out)), max_chars=max_chars))


def standard_library_files(*, held_out: bool) -> Iterator[Document]:
    """Yield the files of the running Python's own packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    if not held_out:
        modules = [path for path in sorted(root.glob("*.py")) if path.stem not in HELD_OUT_STANDARD_LIBRARY]
        yield from _read_files("stdlib", modules, root)
    for folder in _package_folders(root):
        if (folder.name in HELD_OUT_STANDARD_LIBRARY) == held_out:
            yield from _read_files(f"stdlib/{folder.name}", _python_files(folder, held_out=held_out), root)


def package_files(roots: Iterable[Path], *, held_out: bool) -> Iterator[Document]:
    """Yield the files of installed packages, each package once (from the first root that has it)."""
    seen: set[str] = set()
    for root in roots:
        for folder in _package_folders(root):
            if folder.name in seen or folder.name in HELD_OUT_STANDARD_LIBRARY or folder.name == "megacontext":
                continue
            seen.add(folder.name)
            if (folder.name in HELD_OUT_PACKAGES) == held_out:
                yield from _read_files(folder.name, _python_files(folder, held_out=held_out), root)


def package_listings(roots: Iterable[Path]) -> dict[str, str]:
    """A digest of the names and sizes of the files that would be read of each installed package, by its name."""
    listings: dict[str, str] = {}
    for root in roots:
        for folder in _package_folders(root):
            if folder.name not in listings and folder.name not in HELD_OUT_STANDARD_LIBRARY | {"megacontext"}:
                files = _python_files(folder, held_out=folder.name in HELD_OUT_PACKAGES)
                told = [(path.relative_to(root).as_posix(), path.lstat().st_size) for path in files]
                listings[folder.name] = hashlib.sha256(repr(told).encode()).hexdigest()
    return listings


def unreadable_because(file: Document) -> str | None:
    """Why a file of code is never read: tiny, huge or mostly tables of foreign letters; None if it is read."""
    num_chars = len(file.text)
    if num_chars < SMALLEST_FILE_CHARS:
        return "tiny"
    if num_chars > LARGEST_FILE_CHARS:
        return "huge"
    if not file.text.isascii() and sum(ord(char) > 127 for char in file.text) > MOST_NON_ASCII_SHARE * num_chars:
        return "foreign letters"
    return None


def readable(files: Iterable[Document]) -> Iterator[Document]:
    """Yield the files that `unreadable_because` has nothing against."""
    return (file for file in files if unreadable_because(file) is None)


def limit_projects(files: Iterable[Document], *, max_chars: int = MOST_PACKAGE_CHARS) -> Iterator[Document]:
    """Yield the files of each project in order until they have `max_chars`; the standard library has its own limit."""
    for project, some in groupby(files, key=lambda file: file.project):
        num_chars = 0
        for file in some:
            if num_chars >= (MOST_STANDARD_LIBRARY_CHARS if project.split("/")[0] == "stdlib" else max_chars):
                break
            num_chars += len(file.text)
            yield file


def join_projects(files: Iterable[Document]) -> Iterator[Document]:
    """Join the files of each project under header lines."""
    for project, some in groupby(files, key=lambda file: file.project):
        text = "".join(f"# file: {file.name}\n{file.text}\n" for file in some)
        yield Document(name=project, domain="code", text=text)


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


def _read_files(project: str, files: list[Path], root: Path) -> Iterator[Document]:
    """The files that are UTF-8."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        yield Document(name=path.relative_to(root).as_posix(), domain="code", text=text, project=project)
