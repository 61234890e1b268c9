"""Words as the lexical lens compares them: case and accents folded as in the index, light stems, identifiers whole and
in parts, scripts without spaces by pairs of characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache

from megacontext.folding import UNSPACED, fold, without_accents

__all__ = ["FUNCTION_WEIGHT", "find_these", "find_words", "query_words"]

WORD = re.compile(r"[^\W_]+(?:[_'’.-]?[^\W_]+)*")
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")
SUFFIXES = ("ing", "ed", "es", "s")
SHORTEST_STEM = 4
CACHED_WORDS = 1 << 15
SPACES = (" ", "\n")
NOT_ASCII = re.compile(r"[^\x00-\x7f]")

# words that ask, connect or point: they say little about where an answer stands
FUNCTION_TEXT = """
a about after all also am an and answer any are as at be been before but by can could did do does each find for from
give given go had has have he her here him his how i if in into is it its know like list many may me more most much
must my need no not of on one only or other our out please question remind said say says she should show so some such
tell than that the their them then there these they this those to up us use used was we were what when where which who
whom whose why will with would you your
s t ll re ve d m
"""
FUNCTION_WORDS = frozenset(FUNCTION_TEXT.split())
FUNCTION_WEIGHT = 0.05
NAME_WEIGHT = 2.5


def stem(word: str) -> str:
    """Lower case without possessive, plural and verb endings; crude, but the same on both sides."""
    word = word.casefold()
    for ending in ("'s", "’s"):
        word = word.removesuffix(ending)
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= SHORTEST_STEM:
            word = word.removesuffix(suffix)
            break
    return word.removesuffix("e") if len(word) > SHORTEST_STEM else word


def find_words(text: str) -> Iterator[tuple[str, int, int]]:
    """``(stem, start, stop)`` of every word, in characters; compound ones also part by part, and what has no spaces by
    every pair of characters."""
    for match in WORD.finditer(text):
        begin = match.start()
        for word, start, stop in _forms(match.group()):
            yield word, begin + start, begin + stop


def find_these(text: str, stems: Collection[str]) -> list[tuple[str, int, int]]:
    """What ``find_words`` finds of these stems, without a look at the rest of the text: a stem begins its word, in
    lower case, and no word goes over a space."""
    folded = text.casefold() if text.isascii() else NOT_ASCII.sub(_folded_match, text).casefold()
    if len(folded) != len(text):  # a character that folds to two: places are no longer the same
        return [found for found in find_words(text) if found[0] in stems]
    return [
        (word, start + low, start + high)
        for start, stop in _chunks_with(folded, stems)
        for word, low, high in find_words(text[start:stop])
        if word in stems
    ]


def _chunks_with(folded: str, stems: Collection[str]) -> list[tuple[int, int]]:
    """Where, between spaces or line ends, one of the stems stands; in order."""
    chunks: dict[int, int] = {}
    for wanted in stems:
        at = folded.find(wanted)
        while at >= 0:
            start = max(folded.rfind(space, 0, at) for space in SPACES) + 1
            stops = [stop for space in SPACES if (stop := folded.find(space, at)) >= 0]
            chunks[start] = min(stops, default=len(folded))
            at = folded.find(wanted, chunks[start])
    return sorted(chunks.items())


@lru_cache(maxsize=CACHED_WORDS)
def _forms(word: str) -> tuple[tuple[str, int, int], ...]:
    """What is found of one word, in its own characters: most were seen many times before."""
    if _has_no_spaces(word):
        folded, places = _with_places(word, _folded)
        return tuple((folded[at : at + 2], places[at], places[at + 1] + 1) for at in range(len(folded) - 1))
    plain, places = (word, range(len(word))) if word.isascii() else _with_places(word, _plain)
    parts = list(PART.finditer(plain))
    found = [(stem(part.group()), places[part.start()], places[part.end() - 1] + 1) for part in parts if len(parts) > 1]
    return ((stem(plain), 0, len(word)), *found)


def _has_no_spaces(word: str) -> bool:
    return not word.isascii() and len(word) > 1 and UNSPACED.search(word) is not None


def _with_places(word: str, change: Callable[[str], str]) -> tuple[str, Sequence[int]]:
    """A word changed character by character, and the place in it that each of the new ones comes from."""
    changed = [change(char) for char in word]
    return "".join(changed), [at for at, new in enumerate(changed) for _ in new]


def _folded_match(found: re.Match[str]) -> str:
    return _folded(found.group())


@lru_cache(maxsize=CACHED_WORDS)
def _folded(char: str) -> str:
    return fold(char) if char.isalnum() else char  # dots and quotation marks are in no word


@lru_cache(maxsize=CACHED_WORDS)
def _plain(char: str) -> str:
    return without_accents(char)


def query_words(text: str) -> tuple[dict[str, float], list[str]]:
    """What each distinct stem of a question weighs before rarity is known (names much, function words little), and
    the words as they were written that are worth a search."""
    weights: dict[str, float] = {}
    is_plain = text.isascii()
    content: dict[str, None] = {} if is_plain else {run: None for run in WORD.findall(text) if _has_no_spaces(run)}
    sentence_start = True
    position = 0
    for word, start, stop in find_words(text):
        sentence_start = sentence_start or any(mark in text[position:start] for mark in ".?!\n")
        surface = text[start:stop]
        weight = _weight(word, surface, sentence_start=sentence_start)
        weights[word] = max(weights.get(word, 0.0), weight)
        is_of_run = not is_plain and UNSPACED.search(surface)  # which is searched for as a whole
        if weight > FUNCTION_WEIGHT and start >= position and not is_of_run:  # parts of a compound are found with it
            content[surface] = None
        sentence_start, position = False, max(position, stop)
    return weights, list(content)


def _weight(word: str, surface: str, *, sentence_start: bool) -> float:
    if word in FUNCTION_WORDS or surface.casefold() in FUNCTION_WORDS:
        return FUNCTION_WEIGHT
    shaped = any(char.isdigit() or char == "_" for char in surface) or any(char.isupper() for char in surface[1:])
    capitalised = surface[:1].isupper() and not sentence_start
    return NAME_WEIGHT if shaped or capitalised else 1.0
