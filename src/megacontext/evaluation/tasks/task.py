"""What a task is: seeded histories, and what is asked of, or scored after, each of them.

    Task                    name, what it measures and whose idea it is
    └── Plan                one history to come: its key, facets, windows, and how to make it
        └── Case            the history and its items
            ├── Question    an answer in words, scored by what it should state
            ├── Choice      one of several answers, the likeliest is taken
            └── Continuation tokens to predict, each with a label

A task knows nothing of memories, windows or methods: it works on any base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from megacontext.errors import InvalidValueError
from megacontext.evaluation.data_folder import DataFolder
from megacontext.evaluation.methods.method import NO_TOKENS, Span, TokenIds
from megacontext.ports.text import TextCodec

__all__ = [
    "ANSWER_NATS",
    "RIGHT",
    "SCORE",
    "Case",
    "Choice",
    "Continuation",
    "Document",
    "Evidence",
    "Item",
    "Metric",
    "Plan",
    "Question",
    "Setup",
    "Task",
    "length_name",
    "plans_by_length",
]

Evidence = str | Span
"""Where an answer stands: words that stand once in the history, or a token range of it."""

Facets = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One source of a history, as text or as tokens."""

    name: str
    text: str = ""
    token_ids: TokenIds = field(default_factory=lambda: NO_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Question:
    """``expected``: all that a right answer states; ``gold``: how one would put it, whose likelihood is measured."""

    text: str
    expected: tuple[str, ...]
    gold: str
    evidence: tuple[Evidence, ...]
    max_new_tokens: int = 12
    facets: Facets = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """``options`` in the order of their meaning; ``right``: the number of the one that holds. ``is_ordered``: whether
    a neighbour is less wrong."""

    text: str
    options: tuple[str, ...]
    right: int
    evidence: tuple[Evidence, ...]
    is_ordered: bool = False
    facets: Facets = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What comes next. cue: words before it that are shown but not scored, and what is looked for; '' for none.

    labels: one for each target token ('' for none): what kind of token it is; each label becomes a measure.
    """

    target_ids: TokenIds
    labels: tuple[str, ...]
    cue: str = ""
    evidence: tuple[Evidence, ...] = ()
    facets: Facets = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.target_ids):
            raise InvalidValueError(f"{len(self.labels)} labels for {len(self.target_ids)} tokens; give one for each")


Item = Question | Choice | Continuation


@dataclass(frozen=True, kw_only=True)
class Case:
    """One history and what is asked of it."""

    documents: tuple[Document, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A history that can be made at any time, in any order: so that an interrupted run goes on where it was.

    windows: budgets to try and what to call them; none for that of the run.
    """

    key: str
    facets: Facets
    make: Callable[[], Case]
    windows: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What tasks may know of a run. lengths: histories in tokens, () for the task's own; positions: how long a window
    the base was made for; block_tokens, gist_width: of the memories that are made."""

    codec: TextCodec
    data: DataFolder
    positions: int
    budget_entries: int
    seed: int = 0
    num_samples: int = 0
    lengths: tuple[int, ...] = ()
    is_quick: bool = False
    block_tokens: int = 32
    gist_width: int = 1

    def random(self, *parts: object) -> Random:
        """Chance that depends on the seed and the names given, and on nothing else."""
        return Random("/".join(map(str, (self.seed, *parts))))

    def samples(self, usual: int, quick: int) -> int:
        return self.num_samples or (quick if self.is_quick else usual)

    def chosen_lengths(self, usual: Sequence[int], quick: Sequence[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.lengths)) or tuple(quick if self.is_quick else usual)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of a task. is_loss: lower is better (nats); else a share."""

    name: str
    title: str
    is_loss: bool


SCORE = Metric(name="score", title="stated in the answer", is_loss=False)
ANSWER_NATS = Metric(name="answer nats", title="nats per token of the answer", is_loss=True)
RIGHT = Metric(name="right", title="right choices", is_loss=False)


class Task(ABC):
    """One kind of measurement. metrics: the first is what the task is about; columns: facets that make the columns of
    its table; source: the paper, or where the definition comes from; needs: files of the data folder that it
    cannot do without; reads: those that it reads where a folder is given, and has others for where none is; methods:
    ``all``, ``levels`` (all but the end at one level) or ``closed`` (everything as gists)."""

    name: str
    summary: str
    source: str
    metrics: tuple[Metric, ...]
    columns: tuple[str, ...]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    methods: str = "all"

    @abstractmethod
    def plans(self, setup: Setup) -> list[Plan]:
        """The histories of a run, in order."""


def plans_by_length(
    name: str,
    setup: Setup,
    make: Callable[[Setup, str, int], Case],
    *,
    usual: tuple[Sequence[int], int],
    quick: tuple[Sequence[int], int],
) -> list[Plan]:
    """Histories that differ in their length and their chance alone. make: from the setup, the plan's key and a length;
    usual, quick: lengths, and how many histories of each."""
    return [
        Plan(
            key=(key := f"{name}/{length}/{number}"),
            facets={"length": length_name(length)},
            make=partial(make, setup, key, length),
        )
        for length in setup.chosen_lengths(usual[0], quick[0])
        for number in range(setup.samples(usual[1], quick[1]))
    ]


def length_name(num_tokens: int) -> str:
    """``2 k``, ``1 M``.

    >>> length_name(2048), length_name(1500), length_name(1 << 20)
    ('2 k', '1500', '1 M')
    """
    for unit, size in (("M", 1 << 20), ("k", 1 << 10)):
        if num_tokens >= size and num_tokens % size == 0:
            return f"{num_tokens // size} {unit}"
    return str(num_tokens)
