"""Needles in a haystack, by the definitions of RULER: single, multi-key, multi-value, multi-query.

    One of the special magic numbers for tiny-falcon is: 4821367.

Haystacks, needles, the number of keys, values and queries, and the scoring (the share of the expected values that stand
in the answer) are RULER's. Prompts are put as each base was taught to be asked, so RULER's instruction before the
haystack and its answer prefix are left out; a value counts where no letter or digit goes on with it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import partial
from random import Random

from megacontext.evaluation.data_folder import ADJECTIVE_LIST, NOUN_LIST, NOVELS
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS, hide, stretch
from megacontext.evaluation.tasks.task import (
    ANSWER_NATS,
    SCORE,
    Case,
    Document,
    Plan,
    Question,
    Setup,
    Task,
    length_name,
)

__all__ = ["KINDS", "NOISE", "NeedleKind", "NeedleTask", "magic_words"]

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {type} for {key} is: {value}."
NUM_DEPTHS = 40  # needles stand at different ones of so many depths, evenly apart
MOST_NEW_TOKENS = 128


@dataclass(frozen=True, kw_only=True)
class NeedleKind:
    """One of RULER's configurations (scripts/synthetic.yaml). haystack: noise, essay or needle; keys: words or uuids;
    values: numbers or uuids."""

    haystack: str
    keys: str = "words"
    values: str = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1


KINDS = {
    "single 1": NeedleKind(haystack="noise"),
    "single 2": NeedleKind(haystack="essay"),
    "single 3": NeedleKind(haystack="essay", values="uuids"),
    "multi-key 1": NeedleKind(haystack="essay", num_keys=4),
    "multi-key 2": NeedleKind(haystack="needle"),
    "multi-key 3": NeedleKind(haystack="needle", keys="uuids", values="uuids"),
    "multi-value": NeedleKind(haystack="essay", num_values=4),
    "multi-query": NeedleKind(haystack="essay", num_queries=4),
}


class NeedleTask(Task):
    """All eight needle tasks of RULER."""

    name = "needle"
    summary = "RULER's needles: single, multi-key, multi-value, multi-query"
    source = "Hsieh et al. (2024), RULER: What's the real context size of your long-context language models?"
    metrics = (SCORE, ANSWER_NATS)
    columns = ("length", "kind")
    reads = (NOVELS, NOUN_LIST, ADJECTIVE_LIST)

    def plans(self, setup: Setup) -> list[Plan]:
        return [
            Plan(
                key=(key := f"needle/{length}/{name}/{number}"),
                facets={"length": length_name(length), "kind": name},
                make=partial(needle_case, setup, key, kind, length),
            )
            for length in setup.chosen_lengths((4096, 32768, 131072), (2048,))
            for name, kind in KINDS.items()
            for number in range(setup.samples(10, 1))
        ]


def needle_case(setup: Setup, key: str, kind: NeedleKind, length: int) -> Case:
    """One history with its needles and the one question about them."""
    random = setup.random(key)
    draw = _Draw(setup, random)
    num_keys = max(kind.num_keys, kind.num_queries)
    keys = [draw.of(kind.keys) for _ in range(num_keys)]
    values = {key: [draw.of(kind.values) for _ in range(kind.num_values)] for key in keys}
    needles = {value: NEEDLE.format(type=kind.values, key=key, value=value) for key in keys for value in values[key]}
    asked = random.sample(keys, kind.num_queries)
    expected = tuple(value for key in asked for value in values[key])
    gold = " " + _listed(expected) + "."
    gold_tokens = len(setup.codec.encode(gold).token_ids)
    room = ROOM_TOKENS + 2 * gold_tokens + 64 * (kind.num_queries > 1)
    statements = list(needles.values())
    random.shuffle(statements)
    text = _haystack(setup, random, kind, draw, statements, length - room)
    return Case(
        documents=(Document(name="haystack", text=text),),
        items=(
            Question(
                text=_question(kind, asked, len(expected)),
                expected=expected,
                gold=gold,
                evidence=tuple(needles[value] for value in expected),
                max_new_tokens=min(MOST_NEW_TOKENS, gold_tokens + 16),
            ),
        ),
    )


def magic_words(setup: Setup) -> tuple[list[str], list[str]]:
    """Adjectives and nouns that keys are made of."""
    return setup.data.words(ADJECTIVE_LIST), setup.data.words(NOUN_LIST)


def _question(kind: NeedleKind, asked: list[str], num_expected: int) -> str:
    query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
    if num_expected == 1:  # RULER's template in the singular
        return f"What is the special magic {kind.values[:-1]} for {query} mentioned in the provided text?"
    return f"What are all the special magic {kind.values} for {query} mentioned in the provided text?"


def _haystack(
    setup: Setup, random: Random, kind: NeedleKind, draw: _Draw, statements: list[str], num_tokens: int
) -> str:
    def count(text: str) -> int:
        return len(setup.codec.encode(text).token_ids)

    free = max(0, num_tokens - sum(count(statement) + 2 for statement in statements))
    if kind.haystack == "essay":
        essay = stretch(random, setup.codec, setup.data.books, free)
        depths = sorted(random.sample(range(NUM_DEPTHS), len(statements)))
        return hide(essay, statements, [depth / (NUM_DEPTHS - 1) for depth in depths])

    def filler() -> str:
        if kind.haystack == "noise":
            return NOISE
        return NEEDLE.format(type=kind.values, key=draw.of(kind.keys), value=draw.of(kind.values))

    per_line = max(count("\n".join(filler() for _ in range(16))) / 16, 1.0)
    lines = [filler() for _ in range(int(0.97 * free / per_line))]
    for place in sorted(random.sample(range(len(lines) + 1), min(len(statements), len(lines) + 1)), reverse=True):
        lines.insert(place, statements.pop())
    return "\n".join(lines)


def _listed(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else ", ".join(values[:-1]) + ", and " + values[-1]


class _Draw:
    """Keys and values, none of them twice."""

    def __init__(self, setup: Setup, random: Random) -> None:
        self._adjectives, self._nouns = magic_words(setup)
        self._random = random
        self._taken: set[str] = set()

    def of(self, kind: str) -> str:
        while True:
            drawn = self._one(kind)
            if drawn not in self._taken:
                self._taken.add(drawn)
                return drawn

    def _one(self, kind: str) -> str:
        if kind == "numbers":
            return str(self._random.randrange(10**6, 10**7))
        if kind == "uuids":
            return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        return f"{self._random.choice(self._adjectives)}-{self._random.choice(self._nouns)}"
