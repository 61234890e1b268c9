"""bAbI stories: small worlds in which things happen, and questions whose answer takes one to ten of the sentences.

Weston et al., "Towards AI-Complete Question Answering" (arXiv:1502.05698). A prepared folder keeps each story as a
document in the layout of the published files, so that it is a token store like the others:

    1 Mary moved to the bathroom.
    2 Where is Mary?<tab>bathroom<tab>1
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from megacontext.documents.records import Record, read_records
from megacontext.errors import InvalidValueError
from megacontext.training.corpus import Document
from megacontext.training.puzzles import Puzzle
from megacontext.training.tokens import TokenStore

__all__ = ["BABI", "FILES", "WORLDS", "Story", "StoryBook", "has_stories", "parse_story", "read_stories"]

BABI = "babi"
"""Name of the token store that holds stories."""

FILES = {"train": ("babi_en_1k", "babi_en_10k_train"), "test": ("babi_en_1k",)}

_MOVES = (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
WORLDS = {f"qa{number}": "moves" for number in _MOVES} | {
    "qa4": "rooms",
    "qa15": "fears",
    "qa16": "colors",
    "qa17": "shapes",
    "qa18": "sizes",
    "qa19": "rooms",
    "qa20": "motives",
}
"""Tasks whose stories speak of the same people and things, and so contradict each other, are of one world."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """lines: number -> sentence; questions: (number, question, answer, the lines that it takes), both in order."""

    name: str
    lines: Mapping[int, str]
    questions: tuple[tuple[int, str, str, tuple[int, ...]], ...]

    @property
    def task(self) -> str:
        """`qa1` to `qa20`."""
        return self.name.split("/")[0]

    @property
    def world(self) -> str:
        """What the story is about; two stories of one world may contradict each other."""
        return WORLDS[self.task]

    def puzzle(self, index: int) -> Puzzle:
        """A question in the form that rows ask it; asked twice with the same answer it is the same one."""
        _, ask, answer, support = self.questions[index]
        statements = tuple(self.lines[number] for number in support)
        return Puzzle(key=self.task, subjects=(self.name,), statements=statements, ask=ask, value=answer)


def has_stories(data: Path) -> bool:
    """Whether the data folder holds the published files."""
    return all((data / BABI / f"{name}.jsonl.xz").is_file() for name in FILES["train"])


def read_stories(data: Path, split: str) -> Iterator[Document]:
    """Yield each different story of `train` or `test` once, without the training stories that are also test ones.

    A good two thirds of the test stories of `qa4` are in the published training set: it has so few that can be told.
    """
    if split not in FILES:
        raise InvalidValueError(f"split {split!r} of bAbI does not exist; give 'train' or 'test'")
    seen = {document.text for document in read_stories(data, "test")} if split == "train" else set[str]()
    for name in FILES[split]:
        for told_split, story in read_records(data / BABI / f"{name}.jsonl.xz", _story):
            if told_split == split and story.text not in seen:
                seen.add(story.text)
                yield story


def _story(record: Record) -> tuple[str, Document]:
    """The split of a record, and its story as a document."""
    name = f"qa{record['task_no']}/{record['variant']}/{record['story']}"
    return record["split"], Document(name=name, domain=BABI, text=_published(record))


def _published(record: Record) -> str:
    """A record in the layout of the published files."""
    lines = dict(record["facts"])
    for number, ask, answer, support in record["questions"]:
        lines[number] = f"{ask}\t{answer}\t{' '.join(map(str, support))}"
    return "".join(f"{number} {lines[number]}\n" for number in sorted(lines))


def parse_story(name: str, text: str) -> Story:
    """Read what `read_stories` wrote; supporting lines come in the order in which they were told."""
    lines: dict[int, str] = {}
    questions = []
    for line in text.splitlines():
        number, _, rest = line.partition(" ")
        if "\t" in rest:
            ask, answer, support = rest.split("\t")
            questions.append((int(number), ask, answer, tuple(sorted({int(index) for index in support.split()}))))
        else:
            lines[int(number)] = rest
    return Story(name=name, lines=lines, questions=tuple(questions))


class StoryBook:
    """Random stories out of a token store, every task as often as the others."""

    def __init__(self, tokenizer: Tokenizer, store: TokenStore) -> None:
        self.tokenizer, self.store = tokenizer, store
        self.by_task: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(store.names):
            self.by_task[name.split("/")[0]].append(index)

    def story(self, index: int) -> Story:
        """One story by its place in the store."""
        starts_D = self.store.starts_D
        stop = int(starts_D[index + 1]) if index + 1 < len(starts_D) else len(self.store.ids_N)
        ids = self.store.ids_N[int(starts_D[index]) : stop].tolist()
        return parse_story(self.store.names[index], self.tokenizer.decode(ids))

    def draw(self, random: Random, *, worlds: frozenset[str] | None = None) -> Story | None:
        """A story of any task, or of one of these worlds; None if there is none of them."""
        tasks = [task for task in self.by_task if worlds is None or WORLDS[task] in worlds]
        return self.story(random.choice(self.by_task[random.choice(tasks)])) if tasks else None
