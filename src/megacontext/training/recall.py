"""Synthetic recall: facts stated once in running text and asked for later.

A `Fact` is one attribute of one name; it can be stated in several wordings (a sentence, a note, a line of code) and
asked for in several, mostly in the prompt format of the product:

    \\nQuestion: What is the code for Alice Smith?\\nAnswer: 48213.\\n
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from megacontext.training.names import CITIES, COLORS, WORDS, any_name, digits, is_test, similar_name

__all__ = ["TRAINING", "Asking", "Attribute", "Fact", "draw_fact", "draw_facts"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Which facts a row states and how it asks.

    `test` names and values of the test split; `key` only this kind of fact; `product` only the product's prompt.
    """

    test: bool = False
    key: str | None = None
    product: bool = False


TRAINING = Asking()


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A kind of fact: how its value is drawn, stated (`{n}` name, `{v}` value) and asked for."""

    key: str
    share: float
    draw: Callable[[Random], str]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    lead: str
    numeric: bool


ATTRIBUTES = (
    Attribute(
        key="code",
        share=0.44,
        draw=lambda random: digits(random, 5),
        statements=(
            "The code for {n} is {v}.",
            "The code for {n} is {v}.",
            "Remember that the code for {n} is {v}.",
            "Today {n} was given the code {v}.",
            "{n} was given the code {v}.",
            "Note: the code of {n} is {v}.",
            "For {n}, the code is {v}.",
            "{v} is the code for {n}.",
        ),
        questions=(
            "What is the code for {n}?",
            "What is the code for {n}?",
            "What is the code of {n}?",
            "Which code was given to {n}?",
        ),
        lead="It is",
        numeric=True,
    ),
    Attribute(
        key="room",
        share=0.07,
        draw=lambda random: digits(random, 3),
        statements=("The room of {n} is {v}.", "{n} moved into room {v}.", "{n} can be found in room {v}."),
        questions=("What is the room of {n}?", "In which room is {n}?"),
        lead="It is",
        numeric=True,
    ),
    Attribute(
        key="extension",
        share=0.07,
        draw=lambda random: digits(random, 4),
        statements=("The extension of {n} is {v}.", "Call {n} at extension {v}.", "{n} has the extension {v}."),
        questions=("What is the extension of {n}?",),
        lead="It is",
        numeric=True,
    ),
    Attribute(
        key="password",
        share=0.20,
        draw=lambda random: f"{random.choice(WORDS)} {random.choice(WORDS)}",
        statements=(
            "The password for {n} is {v}.",
            "The password of {n} is {v}.",
            "{n} chose the password {v}.",
            "Remember that the password for {n} is {v}.",
        ),
        questions=("What is the password for {n}?", "What is the password of {n}?"),
        lead="It is",
        numeric=False,
    ),
    Attribute(
        key="city",
        share=0.05,
        draw=lambda random: random.choice(CITIES),
        statements=("The city of {n} is {v}.", "{n} lives in {v}.", "{n} is based in {v}."),
        questions=("What is the city of {n}?", "In which city is {n}?"),
        lead="It is",
        numeric=False,
    ),
    Attribute(
        key="color",
        share=0.08,
        draw=lambda random: random.choice(COLORS),
        statements=("The color of {n} is {v}.", "{n} was painted {v}.", "The favorite color of {n} is {v}."),
        questions=("What is the color of {n}?",),
        lead="It is",
        numeric=False,
    ),
    Attribute(
        key="token",
        share=0.09,
        draw=lambda random: random.choice(WORDS),
        statements=("The token of {n} is {v}.", "{n} keeps the token {v}.", "The token for {n} is {v}."),
        questions=("What is the token of {n}?", "What is the token for {n}?"),
        lead="It is",
        numeric=False,
    ),
)
BY_KEY = {attribute.key: attribute for attribute in ATTRIBUTES}
SPLIT_BY_VALUE = frozenset({"code", "extension", "password"})
"""Attributes with enough values to keep some for the test alone; the others rely on held-out names."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One attribute of one name."""

    name: str
    key: str
    value: str

    def statement(self, random: Random, *, code: bool = False) -> str:
        """State the fact once, as a sentence or, in source code, as a comment, a constant or a dictionary entry."""
        sentence = random.choice(BY_KEY[self.key].statements).format(n=self.name, v=self.value)
        sentence = sentence[0].upper() + sentence[1:]
        if not code:
            return sentence
        literal = self.value if BY_KEY[self.key].numeric and self.value[0] != "0" else f'"{self.value}"'
        forms = (
            f"# {sentence}",
            f"# {sentence}",
            f'{self.key.upper()}S["{self.name}"] = {literal}',
            f'    "{self.name}": {literal},  # {self.key}',
            f'set_{self.key}("{self.name}", {literal})',
        )
        return random.choice(forms)

    def question(self, random: Random, *, product: bool = False) -> tuple[str, str]:
        """Ask in the product's prompt format (mostly, or always) or inline; the answer starts with a space."""
        attribute = BY_KEY[self.key]
        asked = random.choice(attribute.questions).format(n=self.name)
        kind = 0.0 if product else random.random()
        if kind < 0.72:
            return f"\nQuestion: {asked}\nAnswer:", f" {self.value}.\n"
        if kind < 0.80:
            return f"\nQ: {asked}\nA:", f" {self.value}.\n"
        if kind < 0.92:
            return f" {asked} {attribute.lead}", f" {self.value}."
        return f"\nThe {self.key} for {self.name} is", f" {self.value}.\n"


def draw_fact(random: Random, *, test: bool = False, name: str | None = None, key: str | None = None) -> Fact:
    """Draw a fact whose name (unless given) and value belong to the training or the test split."""
    weights = [attribute.share for attribute in ATTRIBUTES]
    attribute = BY_KEY[key] if key else random.choices(ATTRIBUTES, weights)[0]
    while name is None or is_test(name) != test:
        name = any_name(random)
    value = attribute.draw(random)
    while attribute.key in SPLIT_BY_VALUE and is_test(value) != test:
        value = attribute.draw(random)
    return Fact(name=name, key=attribute.key, value=value)


def draw_facts(random: Random, count: int, asking: Asking, *, distractors: float = 0.3) -> list[Fact]:
    """Draw facts that do not contradict each other; some share a name, or part of one, with an earlier fact."""
    facts: list[Fact] = []
    taken: set[tuple[str, str]] = set()
    while len(facts) < count:
        name, kind = None, asking.key
        if facts and random.random() < distractors:
            other = random.choice(facts)
            if random.random() < 0.35 and asking.key is None:
                name = other.name
            else:
                candidates = (similar_name(random, other.name) for _ in range(40))
                name, kind = next((name for name in candidates if is_test(name) == asking.test), None), other.key
        fact = draw_fact(random, test=asking.test, name=name, key=kind)
        if (fact.name, fact.key) not in taken:
            taken.add((fact.name, fact.key))
            facts.append(fact)
    return facts
