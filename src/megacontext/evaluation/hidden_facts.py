"""Facts stated once at random depths of real text, and the questions that ask for them.

``The code for Alice Smith is 48213.`` stands between two sentences of a book, or as a comment or a constant between two
lines of a program. Names and values are held out from training, so an answer can only come from the text.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.evaluation.held_out import is_held_out
from megacontext.evaluation.library import Text
from megacontext.ports.text import TextCodec

__all__ = [
    "ANSWER_DIGITS",
    "LAST_NAMES",
    "SENTENCES",
    "Fact",
    "HiddenFact",
    "answer_value",
    "draw_facts",
    "draw_lookalikes",
    "draw_value",
    "hide_facts",
    "locate",
]

ANSWER_DIGITS = 5
SIMILAR_SHARE = 0.3
SHORTEST_TEXT_CHARS = 400
LOCATE_TOKENS = 1024

FIRST_NAMES = tuple(
    """Agnes Albert Alice Anton Beatrice Bruno Carmen Cedric Clara Daphne Dominic Edith Elena Ernest Fiona Florian
    Grace Gustav Helen Hugo Ingrid Isaac Jasmin Julius Karen Kilian Laura Leopold Marta Miles Nadia Norbert Odette
    Oscar Paula Quentin Rachel Rufus Sylvia Simon Tamara Theo Ursula Victor Wanda Xavier Yasmin Zoltan""".split()
)
LAST_NAMES = tuple(
    """Abbott Achebe Bauer Blake Calloway Castillo Delgado Drummond Ellery Engel Fairfax Fournier Gallagher Grimaldi
    Hartmann Holloway Ibarra Ivanov Jensen Joyner Kimura Kowalski Langley Lund Marlowe Moreno Nakata Norwood Oduya
    Osborne Pemberton Pruitt Quigley Rahman Rossi Sandoval Smith Thorne Tremblay Underhill Valdez Vance Whitaker
    Wolfe Yamada Yates Zeller Zhang""".split()
)
SENTENCES = (
    "The code for {n} is {v}.",
    "Remember that the code for {n} is {v}.",
    "Note: the code of {n} is {v}.",
    "For {n}, the code is {v}.",
    "{n} was given the code {v}.",
)
CODE_LINES = ("# The code for {n} is {v}.", 'CODES["{n}"] = {v}', "# Note: the code of {n} is {v}.")

SENTENCE_END = re.compile(r"(?<!\bSt)(?<!\bMr)(?<!\bDr)(?<!\bMrs)[.!?][”’\"']? (?=[“‘A-Z])")
LINE_END = re.compile(r"\n(?=[ ]*\S)")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A name and its code."""

    name: str
    value: str

    @property
    def question(self) -> str:
        return f"What is the code for {self.name}?"


@dataclass(frozen=True, kw_only=True)
class HiddenFact:
    """A fact in its place. statement: the words as they stand in the text; text: which text, by its number;
    char_start: where the statement begins in that text, in characters."""

    fact: Fact
    statement: str
    text: int
    char_start: int


def draw_facts(random: Random, count: int) -> list[Fact]:
    """Facts with held-out names and values, all different; nearly a third share a first or a last name with another."""
    free = _free_names(count)
    facts: list[Fact] = []
    while len(facts) < count:
        names = free
        if facts and random.random() < SIMILAR_SHARE:
            words = set(random.choice(facts).name.split())
            names = [name for name in free if not words.isdisjoint(name.split())] or free
        name = random.choice(names)
        free.remove(name)
        facts.append(Fact(name=name, value=draw_value(random, taken={fact.value for fact in facts})))
    return facts


def draw_lookalikes(random: Random, count: int) -> list[Fact]:
    """The same in an order in which those that share their last name are neighbours."""
    facts: list[Fact] = []
    for name in sorted(_free_names(count), key=lambda name: name.split()[-1])[:count]:
        facts.append(Fact(name=name, value=draw_value(random, taken={fact.value for fact in facts})))
    return facts


def hide_facts(random: Random, texts: Sequence[Text], facts: Sequence[Fact]) -> tuple[list[Text], list[HiddenFact]]:
    """Put every fact at a uniformly random depth of the texts, between two sentences or lines.

    Returns the texts with the statements in them and the facts with their places, in the order of the facts.
    """
    eligible = [number for number, text in enumerate(texts) if len(text.text) >= SHORTEST_TEXT_CHARS]
    if not eligible:
        raise InvalidValueError(f"no text has {SHORTEST_TEXT_CHARS} characters; give longer texts to hide facts in")
    stops = list(accumulate(len(texts[number].text) for number in eligible))
    placed: dict[int, list[tuple[int, int, str]]] = {}
    for index, fact in enumerate(facts):
        depth = random.randrange(stops[-1])
        where = bisect(stops, depth)
        number = eligible[where]
        text = texts[number]
        gap, prefix = _gap_after(text, depth - (stops[where] - len(text.text)))
        placed.setdefault(number, []).append((gap, index, prefix + _statement(random, text, fact)))
    result, hidden = list(texts), {}
    for number, insertions in placed.items():
        longer, starts = _insert(texts[number].text, insertions)
        result[number] = replace(texts[number], text=longer)
        for (_, index, inserted), start in zip(sorted(insertions), starts, strict=True):
            words = inserted.strip()
            char_start = start + len(inserted) - len(inserted.lstrip())
            hidden[index] = HiddenFact(fact=facts[index], statement=words, text=number, char_start=char_start)
    return result, [hidden[index] for index in range(len(facts))]


def answer_value(answer: str) -> str:
    """The value that an answer states: its first five digits in a row, or ''.

    >>> answer_value(" 48213.")
    '48213'
    """
    match = re.search(rf"\d{{{ANSWER_DIGITS}}}", answer)
    return match.group() if match else ""


def draw_value(random: Random, taken: set[str]) -> str:
    """Five digits; the first is not 0, so that a constant in code is a legal literal."""
    while True:
        value = str(random.randrange(10 ** (ANSWER_DIGITS - 1), 10**ANSWER_DIGITS))
        if is_held_out(value) and value not in taken:
            return value


def _free_names(count: int) -> list[str]:
    """All held-out names; InvalidValueError where there are fewer than ``count``."""
    free = [name for first in FIRST_NAMES for last in LAST_NAMES if is_held_out(name := f"{first} {last}")]
    if count > len(free):
        raise InvalidValueError(f"{count} facts are more than there are held-out names; ask for at most {len(free)}")
    return free


def _statement(random: Random, text: Text, fact: Fact) -> str:
    forms = CODE_LINES if text.kind == "code" else SENTENCES
    line = random.choice(forms).format(n=fact.name, v=fact.value)
    return f"{line}\n" if text.kind == "code" else f"{line} "


def _gap_after(text: Text, start: int) -> tuple[int, str]:
    """The first place from ``start`` on between two sentences or lines (else the first of the text), and the
    indentation that a line there needs."""
    pattern = LINE_END if text.kind == "code" else SENTENCE_END
    match = pattern.search(text.text, start) or pattern.search(text.text)
    if match is None:
        raise InvalidValueError(f"{text.name} has no place between two sentences or lines; leave it out")
    gap = match.end()
    if text.kind != "code":
        return gap, ""
    line = text.text[gap : text.text.find("\n", gap) + 1 or None]
    return gap, line[: len(line) - len(line.lstrip(" "))]


def _insert(text: str, insertions: list[tuple[int, int, str]]) -> tuple[str, list[int]]:
    """The text with strings put in, and where each of them (in order) begins."""
    parts: list[str] = []
    starts: list[int] = []
    length = done = 0
    for gap, _, inserted in sorted(insertions):
        parts += [text[done:gap], inserted]
        starts.append(length + gap - done)
        length += gap - done + len(inserted)
        done = gap
    return "".join([*parts, text[done:]]), starts


def locate(codec: TextCodec, token_ids: npt.NDArray[np.uint32], words: str) -> tuple[int, int]:
    """The range of tokens that spells ``words``, which stand once in the text of ``token_ids``.

    Found by decoding, not by encoding the text again: a memory may have cut it into pieces before encoding.
    """
    overlap = len(words.encode())  # in tokens: each is at least a byte
    for start in range(0, len(token_ids), LOCATE_TOKENS):
        piece = token_ids[start : start + LOCATE_TOKENS + overlap]
        if words not in codec.decode(piece):
            continue
        # the first prefix that spells the words ends with them, and the last suffix that does begins with them
        stop = bisect(range(len(piece)), False, key=lambda size: words in codec.decode(piece[: size + 1])) + 1
        size = bisect(range(stop), False, key=lambda size: words in codec.decode(piece[stop - size - 1 : stop])) + 1
        return start + stop - size, start + stop
    raise InvalidValueError(f"{words!r} does not stand in these {len(token_ids)} tokens; look in another source")
