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
from megacontext.training.recall import TRAINING, Asking, Fact, draw_facts
from megacontext.training.tokens import TokenStore

Ids = list[int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A value that a row asks for: targets [start, stop) of the row, and how far back the fact was stated.

    `distance` counts positions from the end of the statement to the first target.
    """

    start: int
    stop: int
    distance: int
    fact: Fact


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
    stated: dict[Fact, int] = field(default_factory=dict)

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

    def add_fact(self, ids: Sequence[int], fact: Fact, *, joined: bool = True) -> None:
        """Add a statement and remember where it ended."""
        self.add_text(ids, joined=joined)
        self.stated[fact] = len(self.tokens)

    def add_question(self, ask: Sequence[int], answer: Sequence[int], value: slice, fact: Fact, weight: float) -> None:
        """Add a question and its answer; `value` is the part of the answer that counts."""
        self.add_text(ask)
        start = len(self.tokens) - 1 + value.start
        stop = len(self.tokens) - 1 + value.stop
        self.add_text(answer)
        for position in range(start, stop):
            self.weights[position] = weight
        self.answers.append(Answer(start=start, stop=stop, distance=start - self.stated[fact], fact=fact))

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
        self.shares = dict(shares)
        size = tokenizer.get_vocab_size()
        tokens = [tokenizer.id_to_token(index) or "" for index in range(size)]
        self.opens_line_V = np.array([token.startswith("\u010a") for token in tokens])
        self.ends_sentence_V = np.array(
            [token in (".", "!", "?", '."', ".\u201d", "?\u201d", "!\u201d") for token in tokens]
        )
        counts_V = sum(np.bincount(store.ids_N, minlength=size) for store in self.stores.values())
        self.rarity_V = -np.log((counts_V + 1.0) / (np.sum(counts_V) + size))
        self.cache: dict[str, Ids] = {}

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
        may[0] = False
        return np.flatnonzero(may)

    def statement(self, random: Random, fact: Fact, domain: str, *, new_line: bool) -> Ids:
        """A statement as it would stand in this domain: inside a paragraph, or on lines of its own."""
        text = fact.statement(random, code=domain == "code" and new_line)
        lead = random.choice(("\n", "\n", "\n\n")) if new_line else " "
        return self.encode(lead + text)

    def question(self, random: Random, fact: Fact, asking: Asking) -> tuple[Ids, Ids, slice]:
        """Question, answer, and the slice of the answer that holds the value (without a bare leading space)."""
        ask, answer = fact.question(random, product=asking.product)
        answer_ids = self.encode(answer)
        value_ids = self.encode(f" {fact.value}")
        first = 1 if self.tokenizer.id_to_token(value_ids[0]) == "\u0120" else 0
        assert answer_ids[: len(value_ids)] == value_ids, (answer, fact)
        return self.encode(ask), answer_ids, slice(first, len(value_ids))


ANSWER_WEIGHT = 6.0
ALIGNED_FACTS = 4
ALIGNED_BLOCK = 32


def plain_row(source: TextSource, random: Random, length: int) -> Window:
    """`length` consecutive tokens of real text: whole projects and books, nothing cut out."""
    ids = source.stretch(random, source.domain(random), length + 1).astype(np.int64)
    return Window(tokens_T=ids[:-1], targets_T=ids[1:], weights_T=np.ones(length, np.float32))


def dense_row(source: TextSource, random: Random, length: int, asking: Asking = TRAINING) -> Window:
    """A few facts with little between them, then nothing but questions: where the recall circuit forms."""
    facts = draw_facts(random, random.randint(2, 4 if length <= 128 else 6), asking, distractors=0.25)
    strip = Strip()
    domain = source.domain(random)
    gap = random.choice((0, 0, 8, 24))
    for fact in facts:
        if gap:
            strip.add_text(source.stretch(random, domain, random.randint(1, gap)).tolist(), joined=False)
        strip.add_fact(source.statement(random, fact, domain, new_line=random.random() < 0.5), fact)
    strip.add_text(source.encode("\n"))
    while len(strip.tokens) <= length:
        for fact in random.sample(facts, len(facts)):
            strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)


def aligned_row(source: TextSource, random: Random, length: int, asking: Asking = TRAINING) -> Window:
    """One fact to a block of 32 tokens, four blocks, then nothing but questions: where gists become readable.

    Each block is filled up with real text before and after its statement, so that no statement crosses a border.
    """
    domain = source.domain(random)
    stated = _short_statements(source, random, domain, asking)
    strip = Strip()
    for fact, statement in stated.items():
        text = source.stretch(random, domain, ALIGNED_BLOCK).tolist()
        before = random.randint(0, ALIGNED_BLOCK - len(statement))
        strip.add_text(text[:before], joined=False)
        strip.add_fact(statement, fact, joined=before > 0)
        strip.add_text(text[before : ALIGNED_BLOCK - len(statement)])
    facts = list(stated)
    while len(strip.tokens) <= length:
        for fact in random.sample(facts, len(facts)):
            strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)


def _short_statements(source: TextSource, random: Random, domain: str, asking: Asking) -> dict[Fact, Ids]:
    """Four facts with statements that fit into a block."""
    for _ in range(100):
        facts = draw_facts(random, 2 * ALIGNED_FACTS, asking, distractors=0.25)
        drawn = {fact: source.statement(random, fact, domain, new_line=random.random() < 0.5) for fact in facts}
        short = {fact: ids for fact, ids in drawn.items() if len(ids) <= ALIGNED_BLOCK}
        if len(short) >= ALIGNED_FACTS:
            return dict(list(short.items())[:ALIGNED_FACTS])
    raise InvalidValueError(
        f"statements of facts hardly ever fit into {ALIGNED_BLOCK} tokens; use a tokenizer with a larger vocabulary"
    )


def recall_row(source: TextSource, random: Random, length: int, asking: Asking = TRAINING) -> Window:
    """Real text of one domain with facts slipped in anywhere, asked for later: some midway, the rest at the end."""
    domain = source.domain(random)
    facts = draw_facts(random, random.randint(2, max(3, length // 80)), asking)
    asked_last = random.sample(facts, min(len(facts), random.randint(2, 8)))
    text = source.stretch(random, domain, length + 1)
    openings = source.openings(text, domain)
    strip = Strip()
    closing = [source.question(random, fact, asking) for fact in asked_last]
    filler = length + 1 - sum(len(ask) + len(answer) for ask, answer, _ in closing) - 24 * len(facts)
    events: list[tuple[int, int, Fact, bool]] = []
    for order, fact in enumerate(facts):
        place = (
            random.randrange(max(1, filler)) if random.random() < 0.8 else filler - random.randrange(min(filler, 128))
        )
        events.append((place, order, fact, False))
        if random.random() < 0.4:
            events.append((random.randint(place, max(place, filler)), order + len(facts), fact, True))
    at = 0
    for place, _, fact, is_question in sorted(events, key=lambda event: event[:2]):
        index = int(np.searchsorted(openings, max(place, at)))
        stop = int(openings[index]) if index < len(openings) else max(place, at)
        strip.add_text(text[at:stop].tolist())
        if is_question:
            strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
        else:
            new_line = stop < len(text) and bool(source.opens_line_V[text[stop]]) and random.random() < 0.7
            new_line = new_line or domain == "code"
            strip.add_fact(source.statement(random, fact, domain, new_line=new_line), fact)
        at = max(at, stop)
    need = length + 1 - len(strip.tokens) - sum(len(ask) + len(answer) for ask, answer, _ in closing)
    if need > 0:
        strip.add_text(text[at : at + need].tolist())
    for (ask, answer, value), fact in zip(closing, asked_last, strict=True):
        strip.add_question(ask, answer, value, fact, ANSWER_WEIGHT)
    while len(strip.tokens) < length:
        fact = random.choice(facts)
        strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)
