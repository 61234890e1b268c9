"""``lexical``: blocks whose words answer to the words of the query.

The catalog's full-text index finds passages anywhere in the history; within them the places are found where the
rare words of the query stand close together, and the blocks of those places are nominated: a fact that straddles a
border gets both its blocks. An answer seldom repeats the question, so a place reaches over its whole sentence.
"""

from __future__ import annotations

import itertools
import math
import re
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from megacontext.focus.lenses.recency import recency_utility
from megacontext.focus.lenses.words import FUNCTION_WEIGHT, find_these, query_words
from megacontext.ports.focus import FocusRequest, FocusScores, MemoryView, Nomination
from megacontext.values import number, whole_number

__all__ = ["LexicalLens", "WordsFound"]

NEAR_CHARS = 240  # words this close together may speak of one thing
FAR_DISCOUNT = 0.5  # what words that far apart are worth less than neighbours
SENTENCE_CHARS = 240  # how far a sentence's begin and end are looked for
BEFORE_CHARS = 32  # context that a place takes along where no sentence begins or ends
AFTER_CHARS = 64
SENTENCE_END = re.compile(r"[.!?][\"'”’)]*\s|\n\s*\n|[;}]\s*\n")
NEWEST_BONUS = 0.02  # of two equal places the later one is the current version
WHOLE = 1 - 1e-9  # share that is all of the query's words
ANSWERED = 0.9  # coverage from which a place speaks of the whole query: all its words in half a line


@dataclass(frozen=True)
class _Place:
    """Blocks ``[start, stop)`` in tokens; coverage: the share of the query's weight in them, less if far apart; words:
    the words of the query that stand in them."""

    start: int
    stop: int
    coverage: float
    words: frozenset[str] = frozenset()


class WordsFound(NamedTuple):
    """nominations: the best places; share: of the weight of the query's words, with those that stand nowhere, the most
    that one of them holds; is_certain: whether one holds them all, and not each of the nominated, as where it is asked
    for what stands everywhere."""

    nominations: tuple[Nomination, ...]
    share: float
    is_certain: bool = False


class _Remembered(NamedTuple):
    """What was found last, by what was asked of which view of a memory."""

    memory: weakref.ref[MemoryView]
    asked: tuple[str, int, int]
    found: WordsFound


class LexicalLens:
    """Full-text search, refined to blocks.

    Arguments: num_passages: search hits that are looked into; num_places: blocks or pairs of blocks nominated;
    sharpness: exponent that ranks coverage of the query; recency: utility of the recent tail (the best place has 1).
    """

    name = "lexical"
    needs_attention = False

    def __init__(
        self, *, num_passages: int = 16, num_places: int = 6, sharpness: float = 4.0, recency: float = 0.25
    ) -> None:
        self.num_passages = whole_number("num_passages", num_passages, least=1)
        self.num_places = whole_number("num_places", num_places, least=1)
        self.sharpness = number("sharpness", sharpness, above=0)
        self.recency = number("recency", recency, least=0)
        self._last: _Remembered | None = None

    def score(self, request: FocusRequest) -> FocusScores:
        utility = recency_utility(request.cut) * self.recency
        return FocusScores(utility=utility, nominations=self.find(request).nominations)

    def find(self, request: FocusRequest) -> WordsFound:
        """The places to nominate, and how much of the query the best of them speaks of.

        Nothing of it depends on the window, so a lens that is asked twice in a refocus looks once.
        """
        num_tokens = int(request.cut.stops[-1]) if len(request.cut.stops) else 0
        asked = (request.query_text, num_tokens, request.asking_tokens)
        if self._last is None or self._last.memory() is not request.memory or self._last.asked != asked:
            self._last = _Remembered(weakref.ref(request.memory), asked, self._find(request, num_tokens))
        return self._last.found

    def _find(self, request: FocusRequest, num_tokens: int) -> WordsFound:
        weights, content = query_words(request.query_text)
        wanted = " ".join(content) or request.query_text
        if not wanted.strip() or not num_tokens:
            return WordsFound((), 0.0)
        hits = request.memory.search_hits(wanted, limit=self.num_passages)
        spans = [(hit.token_start, min(hit.token_stop, num_tokens)) for hit in hits if hit.token_start < num_tokens]
        if content:  # function words then only cost time
            weights = {word: weight for word, weight in weights.items() if weight > FUNCTION_WEIGHT}
        passages = _read(request, spans, weights)
        rarity = _rarity(weights, passages)
        total = sum(rarity.values())
        asked_from = num_tokens - request.asking_tokens
        found = [each for passage in passages for each in passage.together(rarity, total)]
        chosen = _best_apart(_places(found, asked_from), self.num_places)
        shares = [sum(map(weights.__getitem__, place.words)) / sum(weights.values()) for place in chosen]
        num_whole = sum(share >= WHOLE for share in shares)
        return WordsFound(
            tuple(self._nominations(chosen, num_tokens)), max(shares, default=0.0), 0 < num_whole < self.num_places
        )

    def _nominations(self, places: list[_Place], num_tokens: int) -> Iterator[Nomination]:
        for place in places:
            newest = 1 + NEWEST_BONUS * place.stop / num_tokens
            yield Nomination(start=place.start, stop=place.stop, utility=place.coverage**self.sharpness * newest)


@dataclass(frozen=True)
class _Passage:
    """One hit, grown to whole blocks and one more on either side, so that what it says ends within it: its text, where
    each block begins in it (edges in tokens and characters), and the words of the query in it."""

    text: str
    token_edges: list[int]
    char_edges: list[int]
    words: list[tuple[str, int, int]]

    @classmethod
    def of(cls, token_edges: list[int], pieces: list[str], wanted: Collection[str]) -> _Passage:
        """From the texts between the edges."""
        text = "".join(pieces)
        char_edges = [0, *itertools.accumulate(map(len, pieces))]
        return cls(text, token_edges, char_edges, find_these(text, wanted))

    def together(self, rarity: dict[str, float], total: float) -> Iterator[_Together]:
        """Where words of the query stand together, the best ending for each beginning; they may overlap."""
        matches = [(word, low, high) for word, low, high in self.words if word in rarity]
        for at, (_, low, _) in enumerate(matches):
            best, best_high, best_words = 0.0, low, frozenset[str]()
            seen, covered = set[str](), 0.0
            for word, _, high in matches[at:]:
                if high > low + NEAR_CHARS:
                    break
                if word not in seen:
                    seen.add(word)
                    covered += rarity[word] / total
                    together = covered * (1 - FAR_DISCOUNT * (high - low) / NEAR_CHARS)
                    if together > best:
                        best, best_high, best_words = together, high, frozenset(seen)
            yield _Together(self, low, best_high, best, best_words)

    def place(self, low: int, high: int, coverage: float, words: frozenset[str]) -> _Place:
        """The blocks of the sentences from one character to another."""
        ends_before = [found.end() for found in SENTENCE_END.finditer(self.text, max(low - SENTENCE_CHARS, 0), low)]
        begin = ends_before[-1] if ends_before else max(low - BEFORE_CHARS, 0)
        sentence = SENTENCE_END.search(self.text, high, high + SENTENCE_CHARS)
        end = sentence.end() if sentence else high + AFTER_CHARS
        first = bisect_right(self.char_edges, begin) - 1
        last = bisect_left(self.char_edges, min(end, len(self.text)))
        return _Place(self.token_edges[first], self.token_edges[max(last, first + 1)], coverage, words)


class _Together(NamedTuple):
    """Words of the query near each other in a passage. Which blocks they stand in is found out for the best only."""

    passage: _Passage
    low: int
    high: int
    coverage: float
    words: frozenset[str]

    def place(self) -> _Place:
        return self.passage.place(self.low, self.high, self.coverage, self.words)


def _read(request: FocusRequest, spans: list[tuple[int, int]], wanted: Collection[str]) -> list[_Passage]:
    """The passages of hits. They overlap: each block is read once, all of them together."""
    block, num_tokens = request.cut.block_tokens, int(request.cut.stops[-1])
    edges = []
    for start, stop in spans:
        first = max(start // block - 1, 0) * block
        end = min((-(-stop // block) + 1) * block, num_tokens)
        edges.append([*range(first, end, block), end])
    blocks = sorted({pair for passage in edges for pair in itertools.pairwise(passage)})
    texts = dict(zip(blocks, request.memory.texts(blocks), strict=True))
    return [_Passage.of(each, [texts[pair] for pair in itertools.pairwise(each)], wanted) for each in edges]


def _rarity(weights: dict[str, float], passages: list[_Passage]) -> dict[str, float]:
    """Weight of each word of the query that occurs at all: rare among the hits counts more."""
    rarity: dict[str, float] = {}
    vocabularies = [{word for word, _, _ in passage.words} for passage in passages]
    for word, weight in weights.items():
        found = sum(word in vocabulary for vocabulary in vocabularies)
        if found:
            rarity[word] = weight * math.log(1 + (len(passages) + 1) / (found + 0.5))
    return rarity


def _places(found: list[_Together], asked_from: int) -> Iterator[_Place]:
    """The places that end before the text that asks, best first; of equal ones the shorter, then the later.

    Where a place speaks of the whole query, those with only some of its words speak of something else: the code of
    another Alice. They would only stand beside the answer and be mistaken for it.
    """
    sure = [each for each in found if each.coverage >= ANSWERED]
    answers = {each.words for each in sure if each.place().stop <= asked_from}
    ranked = sorted(found, key=lambda each: -each.coverage)
    for _, equal in itertools.groupby(ranked, key=lambda each: each.coverage):
        places = [each.place() for each in equal if not any(each.words < words for words in answers)]
        places = [place for place in places if place.stop <= asked_from]
        yield from sorted(places, key=lambda place: (place.stop - place.start, -place.start))


def _best_apart(places: Iterator[_Place], num_places: int) -> list[_Place]:
    """The first places that do not overlap."""
    chosen: list[_Place] = []
    for place in places:
        if len(chosen) == num_places:
            break
        if all(place.stop <= other.start or place.start >= other.stop for other in chosen):
            chosen.append(place)
    return chosen
