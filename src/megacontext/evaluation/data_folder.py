"""The folder of data that evaluations read (``--data``), and what stands in for it where a task can do without.

Nothing is downloaded. A file that is missing is an error that says what the folder should hold.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from megacontext.documents.records import Record, read_records, text_field
from megacontext.errors import InvalidValueError, UnreadableSourceError
from megacontext.evaluation.library import HELD_OUT_PACKAGES, installed_code, shipped_books

__all__ = ["ADJECTIVE_LIST", "FILES", "NOUN_LIST", "NOVELS", "PAGES", "VERB_LIST", "DataFolder"]

NOVELS, PAGES = "books/books_test.jsonl.xz", "knowledge/docs.jsonl.xz"
NOUN_LIST, ADJECTIVE_LIST, VERB_LIST = "ruler/nounlist.txt", "ruler/adjectivelist.txt", "ruler/verblist.txt"
FILES = {
    NOVELS: 'novels of the test side, one {"title", "author", "text"} a line',
    PAGES: 'documentation pages, one {"id", "text"} a line',
    NOUN_LIST: "nouns, one a line (wonderwords)",
    ADJECTIVE_LIST: "adjectives, one a line (wonderwords)",
    VERB_LIST: "verbs, one a line (wonderwords)",
    "babi/babi_en_1k.jsonl.xz": 'bAbI stories, one {"task_no", "split", "facts", "questions"} a line',
    "longeval/lines.jsonl.xz": 'LongEval cases, one {"prompt", "random_idx", "expected_number", "correct_line"} a line',
}

T = TypeVar("T")

HELD_OUT_PAGE_SHARE = 0.05
"""Pages that no training run reads (`megacontext.training.corpus` draws the same line; a test pins that)."""

NOUNS = """apple basket bridge candle carpet castle cloud copper cotton desert engine falcon feather forest garden glass
hammer harbor island jacket kettle ladder lantern lemon marble meadow mirror mountain needle ocean orchard paper pepper
pillow planet pocket ribbon river saddle shadow silver spider stone table temple thunder tunnel valley violin walnut
window winter""".split()
ADJECTIVES = """ancient bitter brave bright broken calm clever cold crimson curious distant eager fancy fierce gentle
golden happy hollow humble icy jolly lazy little lonely loud lucky mellow narrow nervous odd pale patient plain proud
quick quiet rapid rough rusty shy silent simple sleepy smooth steep strange sturdy sweet tall tender tiny warm wild
wise""".split()
VERBS = """arrive bake bend borrow build carry catch chase climb count cross dance draw drift drink enter fetch fold
follow gather guess hide hunt jump kneel lean listen march mend open paint plant pour pull push reach rest roll run sail
search shout sing skate sleep sort spin stand swim teach throw trade travel turn visit wait walk wander wash watch write
""".split()
BUILT_IN = {NOUN_LIST: NOUNS, ADJECTIVE_LIST: ADJECTIVES, VERB_LIST: VERBS}


class DataFolder:
    """Files below one folder; without a folder, what the package itself brings."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise InvalidValueError(f"{folder} is no folder; give the one that holds {', '.join(FILES)}")
        self.folder = folder

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file that is there: a run resumes only on the data that it began with."""
        if self.folder is None:
            return {}
        return {name: (self.folder / name).stat().st_size for name in FILES if (self.folder / name).is_file()}

    def require(self, task: str, needs: tuple[str, ...], reads: tuple[str, ...] = ()) -> None:
        """Refuse a task whose files are not there, before anything runs. reads: what the package has its own of, which
        counts where there is no folder."""
        for name in needs:
            if self.folder is None:
                raise InvalidValueError(
                    f"task {task} reads {name} ({FILES[name]}); give the folder that holds it with --data"
                )
        for name in (*needs, *reads) if self.folder is not None else ():
            self.path(name)

    def path(self, name: str) -> Path:
        """A file that is there."""
        assert self.folder is not None, "require() comes first"
        path = self.folder / name
        if not path.is_file():
            raise InvalidValueError(f"{path} is not there; the data folder should hold it: {FILES[name]}")
        return path

    def words(self, name: str) -> list[str]:
        """A word list, ``ruler/nounlist.txt`` for example; the package's short one where there is no folder."""
        if self.folder is None:
            return list(BUILT_IN[name])
        path = self.path(name)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise _unreadable(path, name, error) from error
        except UnicodeDecodeError as error:
            raise InvalidValueError(
                f"{path} is not UTF-8 from byte {error.start} on ({error.reason}); write it as UTF-8"
            ) from error
        words = [word for line in lines if (word := line.strip())]
        if len(set(words)) < len(BUILT_IN[name]):
            raise InvalidValueError(
                f"{path} has {len(set(words))} words; it should hold {FILES[name]}, at least {len(BUILT_IN[name])}"
            )
        return words

    def records(self, name: str, make: Callable[[Record], T]) -> list[T]:
        """What ``make`` makes of the records of a file of JSON lines, xz-compressed; errors as in ``read_records``."""
        path = self.path(name)
        try:
            records = list(read_records(path, make))
        except OSError as error:
            raise _unreadable(path, name, error) from error
        if not records:
            raise UnreadableSourceError(f"{path} is empty; it should hold {FILES[name]}")
        return records

    @functools.cached_property
    def books(self) -> list[str]:
        """Novels of the test side: the folder's, or the same ones as shipped."""
        if self.folder is None:
            return [book.text for book in shipped_books()]
        return self.records(NOVELS, lambda book: text_field(book, "text"))

    @functools.cached_property
    def code(self) -> list[str]:
        """Packages of the standard library that no training run reads, each as one text: its modules in order."""
        packages: dict[str, list[str]] = {}
        for module in installed_code():
            name = module.title.partition("/")[0]
            if name not in HELD_OUT_PACKAGES:
                break  # held-out packages come first
            packages.setdefault(name, []).append(f"# {module.title}\n{module.text}")
        return ["\n\n".join(modules) for modules in packages.values()]

    @functools.cached_property
    def knowledge(self) -> list[str]:
        """Held-out documentation pages."""
        pages = self.records(PAGES, lambda page: (text_field(page, "id"), text_field(page, "text")))
        return [text for name, text in pages if _stable_share(name) < HELD_OUT_PAGE_SHARE]

    def texts(self, domain: str) -> list[str]:
        """``books``, ``code`` or ``knowledge``."""
        found: list[str] = getattr(self, domain)
        return found


def _unreadable(path: Path, name: str, error: OSError) -> UnreadableSourceError:
    return UnreadableSourceError(f"{path} cannot be read ({error}); it should hold {FILES[name]}")


def _stable_share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
