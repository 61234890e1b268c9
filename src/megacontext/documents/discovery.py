"""Files to ingest: what is named, and what lies in named folders, minus what .gitignore files leave out.

Within a folder, hidden files and folders (a leading dot, ``.git`` among them) are left out; naming one directly takes
it. ``.gitignore`` files count from the top of the repository down, the deeper one wins, and what lies in an ignored
folder stays ignored, all as git does it. A link that leads back into the named folder is left out, since its target is
met there by itself; one that leads outside is followed once. Memories are no sources: their folders are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import pathspec

from megacontext.errors import SourceError, UnreadableSourceError

__all__ = ["Found", "discover"]

_IGNORE_FILE = ".gitignore"
_MEMORY_FILE = "catalog.sqlite"  # what makes a folder a memory,
_MOVED_MEMORY_FILES = f"generations/*/{_MEMORY_FILE}"  # or one that was moved to another base


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file to read. named: given by the user, so that failing on it is an error; problem: why it cannot be read."""

    path: Path
    uri: str
    named: bool
    problem: SourceError | None = None


@dataclass(frozen=True)
class _Rules:
    """The patterns of one .gitignore, for paths below its folder."""

    folder: Path
    spec: pathspec.GitIgnoreSpec


def discover(paths: Iterable[str | PathLike[str]]) -> Iterator[Found]:
    """Files in the order given, folders sorted by name.

    Every path is looked up before the first file is returned, so that a misspelt one stops everything at once.

    Raises: UnreadableSourceError if a given path does not exist, is a memory, or is a folder that may not be read.
    """
    given = [Path(path) for path in paths]
    for path in given:
        try:
            is_there = path.exists()
        except OSError as error:
            raise UnreadableSourceError(
                f"{path} cannot be looked up ({error.strerror}); check its name and permissions"
            ) from error
        if not is_there:
            raise UnreadableSourceError(f"{path} does not exist; check its name")
        if _is_memory(path):
            raise UnreadableSourceError(f"{path} is a memory; ingest the files that it was made of")
        if path.is_dir() and (problem := _folder_problem(path)) is not None:
            raise problem
    return _discover(given)


def _discover(given: list[Path]) -> Iterator[Found]:
    for path in given:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  keeps links, which resolve() would replace
        if path.is_dir():
            yield from _Walk(absolute).files()
        else:
            yield Found(path=path, uri=absolute.as_uri(), named=True)


class _Walk:
    """One named folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = root.resolve()
        self._followed: set[Path] = set()

    def files(self) -> Iterator[Found]:
        yield from self._folder(self._root, _rules_above(self._root))

    def _folder(self, folder: Path, rules: tuple[_Rules, ...]) -> Iterator[Found]:
        pending = [(folder, rules)]  # a stack of our own: folders may nest deeper than calls
        while pending:
            folder, rules = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
                rules = rules + _rules_of(folder)
            except OSError as error:
                yield Found(path=folder, uri=folder.as_uri(), named=False, problem=_unreadable(folder, error))
                continue
            inner = []
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith(".") or not self._is_wanted(path):
                    continue
                if entry.is_dir():
                    if not _is_ignored(path, rules, is_folder=True) and not _is_memory(path):
                        inner.append((path, rules))
                elif entry.is_file() and not _is_ignored(path, rules, is_folder=False):
                    yield Found(path=path, uri=path.as_uri(), named=False)
            pending.extend(reversed(inner))

    def _is_wanted(self, path: Path) -> bool:
        """False for links back into the named folder, and for the second of two that lead to one place outside."""
        if not path.is_symlink():
            return True
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # dangling, or a loop
            return False
        if target in self._followed or target.is_relative_to(self._real_root):
            return False
        self._followed.add(target)
        return True


def _rules_of(folder: Path) -> tuple[_Rules, ...]:
    file = folder / _IGNORE_FILE
    if not file.is_file():
        return ()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return (_Rules(folder, pathspec.GitIgnoreSpec.from_lines(filter(_is_rule, lines))),)


def _is_rule(line: str) -> bool:
    """Whether a line of an ignore file can be read; git passes over those that cannot."""
    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except (ValueError, re.error):
        return False
    return True


def _rules_above(folder: Path) -> tuple[_Rules, ...]:
    """Rules of the folders above, up to the top of the repository that the folder is in, if any."""
    chain: list[Path] = []
    for parent in (folder, *folder.parents):
        if parent != folder:
            chain.append(parent)
        is_top = False
        with suppress(OSError):  # a folder that we may not look into is no repository of ours
            is_top = (parent / ".git").exists()
        if is_top:
            return tuple(rules for above in reversed(chain) for rules in _rules_of(above))
    return ()


def _is_ignored(path: Path, rules: tuple[_Rules, ...], *, is_folder: bool) -> bool:
    for rule in reversed(rules):
        if not path.is_relative_to(rule.folder):
            continue
        name = path.relative_to(rule.folder).as_posix() + ("/" if is_folder else "")
        verdict = rule.spec.check_file(name).include
        if verdict is not None:
            return bool(verdict)
    return False


def _is_memory(folder: Path) -> bool:
    try:
        return (folder / _MEMORY_FILE).is_file() or any(True for _ in folder.glob(_MOVED_MEMORY_FILES))
    except OSError:
        return False


def _folder_problem(folder: Path) -> UnreadableSourceError | None:
    try:
        os.scandir(folder).close()
        _rules_above(Path(os.path.abspath(folder)))  # noqa: PTH100
    except OSError as error:
        return _unreadable(folder, error)
    return None


def _unreadable(path: Path, error: OSError) -> UnreadableSourceError:
    return UnreadableSourceError(f"{path} cannot be read ({error.strerror}); check its permissions")
