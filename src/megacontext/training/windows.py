"""Windows: what one training row shows, and where it may learn.

Every row is `length` positions of (token, target, weight). A target is always the *true* successor of its token in
the text that the row was made from; where that is not known the weight is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from megacontext.errors import InvalidValueError
from megacontext.training.babi import BABI, StoryBook
from megacontext.training.puzzles import Puzzle
from megacontext.training.recall import Asking, Fact
from megacontext.training.tokens import TokenStore, token_pieces

__all__ = ["ANSWER_WEIGHT", "Answer", "Ids", "Strip", "TextSource", "Window"]

Ids = list[int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A value that a row asks for: targets [start, stop) of the row, and how far back the fact was stated.

    `distance` counts positions from the end of the last statement to the first target; `evidence` are the positions
    [start, stop) of all statements that it takes; `asked`: where the question ends, which may be a bare space before
    the value.
    """

    start: int
    stop: int
    asked: int
    distance: int
    fact: Fact | Puzzle
    evidence: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Window:
    """One row: tokens and targets int64 [T], weights float32 [T]."""

    tokens_T: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    targets_T: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    weights_T: npt.NDArray[np.float32]  # noqa: N815 - shape suffix
    answers: tuple[Answer, ...] = ()


@dataclass(kw_only=True)
class Strip:
    """A row under construction: text is added piece by piece, then read off as a window."""

    tokens: Ids = field(default_factory=list)
    targets: Ids = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    stated: dict[Fact | Puzzle, list[tuple[int, int]]] = field(default_factory=dict)

    def add_text(self, ids: Sequence[int], *, joined: bool = True) -> None:
        """Add running text; `joined` says that it truly follows what stands before it."""
        if not ids:
            return
        if joined and self.tokens:
            self.targets[-1], self.weights[-1] = ids[0], max(self.weights[-1], 1.0)
        self.tokens.extend(ids)
        self.targets.extend([*ids[1:], 0])
        self.weights.extend([1.0] * (len(ids) - 1) + [0.0])

    def end_text(self, successor: int) -> None:
        """Name the true successor of the last token although the row goes on elsewhere."""
        self.targets[-1], self.weights[-1] = successor, 1.0

    def add_lone(self, ids: Sequence[int]) -> None:
        """Add single tokens out of skipped spans: they are read, never predicted, and predict nothing."""
        self.tokens.extend(ids)
        self.targets.extend([0] * len(ids))
        self.weights.extend([0.0] * len(ids))

    def add_fact(
        self, ids: Sequence[int], fact: Fact | Puzzle, *, joined: bool = True, is_evidence: bool = True
    ) -> None:
        """Add a statement, and remember where it stands if the answer needs it."""
        start = len(self.tokens)
        self.add_text(ids, joined=joined)
        if is_evidence:
            self.stated.setdefault(fact, []).append((start, len(self.tokens)))

    def add_question(
        self, ask: Sequence[int], answer: Sequence[int], value: slice, fact: Fact | Puzzle, weight: float
    ) -> None:
        """Add a question and its answer; `value` is the part of the answer that counts."""
        self.add_text(ask)
        asked = len(self.tokens)
        start = len(self.tokens) - 1 + value.start
        stop = len(self.tokens) - 1 + value.stop
        self.add_text(answer)
        for position in range(start, stop):
            self.weights[position] = weight
        evidence = tuple(self.stated[fact])
        distance = start - max(end for _, end in evidence)
        self.answers.append(
            Answer(start=start, stop=stop, asked=asked, distance=distance, fact=fact, evidence=evidence)
        )

    def window(self, length: int) -> Window:
        """Read off the first `length` positions; answers that do not fit whole are dropped with their weight."""
        assert len(self.tokens) >= length, (len(self.tokens), length)
        kept = tuple(answer for answer in self.answers if answer.stop <= length)
        return Window(
            tokens_T=np.array(self.tokens[:length], np.int64),
            targets_T=np.array(self.targets[:length], np.int64),
            weights_T=np.array(self.weights[:length], np.float32),
            answers=kept,
        )


class TextSource:
    """Random stretches of real text, with the places where a sentence or a line may be slipped in."""

    def __init__(self, tokenizer: Tokenizer, stores: Mapping[str, TokenStore], shares: Mapping[str, float]) -> None:
        self.tokenizer = tokenizer
        self.stores = {domain: stores[domain] for domain in shares}
        self._stories = StoryBook(tokenizer, stores[BABI]) if BABI in stores else None
        self.shares = dict(shares)
        self.pieces_V = token_pieces(tokenizer)
        size = tokenizer.get_vocab_size()
        tokens = [tokenizer.id_to_token(index) or "" for index in range(size)]
        self.opens_line_V = np.array([token.startswith("\u010a") for token in tokens])
        self.ends_sentence_V = np.array(
            [token in (".", "!", "?", '."', ".\u201d", "?\u201d", "!\u201d") for token in tokens]
        )
        counts_V = sum(np.bincount(store.ids_N, minlength=size) for store in self.stores.values())
        self.rarity_V = -np.log((counts_V + 1.0) / (np.sum(counts_V) + size))
        self.cache: dict[str, Ids] = {}

    @property
    def stories(self) -> StoryBook:
        """bAbI stories; raises InvalidValueError if the token arrays were prepared without them."""
        if self._stories is None:
            raise InvalidValueError(
                f"rows of kind {BABI!r} need stories, and the token arrays hold none: put {BABI}/*.jsonl.xz below "
                f"--data and give a new --out (or run recipes/core/prepare.py), or take {BABI!r} out of the mix"
            )
        return self._stories

    def domain(self, random: Random) -> str:
        """Draw a domain by its share."""
        return random.choices(list(self.shares), list(self.shares.values()))[0]

    def stretch(self, random: Random, domain: str, length: int) -> npt.NDArray[np.uint16]:
        """`length` consecutive tokens of the domain, from anywhere."""
        ids_N = self.stores[domain].ids_N
        length = min(length, len(ids_N) - 1)
        start = random.randrange(len(ids_N) - length)
        return ids_N[start : start + length]

    def encode(self, text: str) -> Ids:
        """Token ids of a short text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def openings(self, ids_N: npt.NDArray[np.uint16], domain: str) -> npt.NDArray[np.int64]:
        """Positions before which a statement may be put: line ends, and in prose also sentence ends."""
        may = self.opens_line_V[ids_N]
        if domain != "code":
            may[1:] |= self.ends_sentence_V[ids_N[:-1]]
        may[:1] = False
        return np.flatnonzero(may)

    def statement(self, random: Random, fact: Fact, domain: str, *, new_line: bool) -> Ids:
        """A statement as it would stand in this domain: inside a paragraph, or on lines of its own."""
        text = fact.statement(random, code=domain == "code" and new_line)
        lead = random.choice(("\n", "\n", "\n\n")) if new_line else " "
        return self.encode(lead + text)

    def question(self, random: Random, fact: Fact | Puzzle, asking: Asking) -> tuple[Ids, Ids, slice]:
        """Question, answer, and the slice of the answer that holds the value (without a bare leading space)."""
        ask, answer = fact.question(random, product=asking.product)
        answer_ids = self.encode(answer)
        value_ids = self.encode(f" {fact.value}")
        first = 1 if self.tokenizer.id_to_token(value_ids[0]) == "\u0120" else 0
        assert answer_ids[: len(value_ids)] == value_ids, (answer, fact)
        return self.encode(ask), answer_ids, slice(first, len(value_ids))


ANSWER_WEIGHT = 6.0
