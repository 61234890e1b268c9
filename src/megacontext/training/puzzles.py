"""Recall that words alone do not settle: facts that change, other names for the same thing, answers in two steps.

Where a question repeats the words of its statement, a word index finds the place and nothing better can be shown. Here
the place has to be understood: the latest of two statements counts, a question says "Bob's number" where the text said
"the code for Robert", the answer stands where another statement points to, variables are copied, visits are counted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from megacontext.training.names import CITIES, FIRST_NAMES, LAST_NAMES, THINGS, any_name, digits, is_test, made_up_word

__all__ = ["PUZZLES", "Puzzle", "draw_puzzles"]

NICKNAMES = dict(
    pair.split("/")
    for pair in (
        "Alice/Ally Robert/Bob James/Jim Peter/Pete Susan/Sue David/Dave Thomas/Tom Nancy/Nan Daniel/Dan Kevin/Kev "
        "Edward/Ned Henry/Hank Martin/Marty Olivia/Liv Walter/Walt Rachel/Rae Arthur/Art Victor/Vic Hannah/Han "
        "Monica/Mona Philip/Pip Samuel/Sam Teresa/Tess Leonard/Leo Vivian/Viv Harold/Hal Miriam/Mim Stanley/Stan "
        "Eugene/Gene Beatrice/Bea Russell/Russ Cynthia/Cindy Vernon/Vern Clifford/Cliff Dominic/Dom Gilbert/Gil "
        "Marcus/Marc Nathan/Nate Felicia/Fee Gloria/Glo Elena/Lena Tariq/Taz Anton/Tony"
    ).split()
)
OWNED = ("locker", "office", "boat", "workshop", "cabin", "garage", "studio")


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """A question about several statements. statements: in order of time; subjects: what they are about; value: the
    answer; beside_it: the numbers of statements that the answer does not need."""

    key: str
    subjects: tuple[str, ...]
    statements: tuple[str, ...]
    ask: str
    value: str
    beside_it: frozenset[int] = frozenset()

    @property
    def is_needed(self) -> tuple[bool, ...]:
        """Of each statement, whether the answer needs it."""
        return tuple(number not in self.beside_it for number in range(len(self.statements)))

    def is_about(self, other: Puzzle) -> bool:
        """Whether a statement of the other one names a subject of this one."""
        text = " ".join(other.statements).lower()
        return any(re.search(rf"\b{re.escape(subject.lower())}\b", text) for subject in self.subjects)

    def question(self, random: Random, *, product: bool = False) -> tuple[str, str]:
        """Ask in the product's prompt format (mostly, or always) or inline; the answer starts with a space."""
        if product or random.random() < 0.85:
            return f"\nQuestion: {self.ask}\nAnswer:", f" {self.value}.\n"
        return f" {self.ask} It is", f" {self.value}."


def _name(random: Random, test: bool) -> str:
    while is_test(name := any_name(random)) != test:
        pass
    return name


def _number(random: Random, test: bool) -> str:
    while is_test(value := digits(random, 5)) != test:
        pass
    return value


def _update(random: Random, test: bool) -> Puzzle:
    """A fact that is overwritten: the last word counts."""
    name = _name(random, test)
    values = [_number(random, test) for _ in range(random.choice((2, 2, 3)))]
    first = f"The code for {name} is {values[0]}."
    later = (
        "The code for {n} has changed to {v}.",
        "From now on the code for {n} is {v}.",
        "{n} has a new code, {v}.",
        "The new code for {n} is {v}.",
    )
    updates = tuple(random.choice(later).format(n=name, v=value) for value in values[1:])
    updates = tuple(text[0].upper() + text[1:] for text in updates)
    ask = random.choice((f"What is the code for {name}?", f"What is the code for {name} now?"))
    return Puzzle(key="update", subjects=(name,), statements=(first, *updates), ask=ask, value=values[-1])


def _alias(random: Random, test: bool) -> Puzzle:
    """Two names for one thing."""
    name, other, value = _name(random, test), made_up_word(random), _number(random, test)
    link = random.choice((f"{other} is another name for {name}.", f"{other} is what people call {name}."))
    stated, asked = random.sample([name, other], 2)
    statements = [link, f"The code for {stated} is {value}."]
    random.shuffle(statements)
    return Puzzle(
        key="alias",
        subjects=(name, other),
        statements=tuple(statements),
        ask=f"What is the code for {asked}?",
        value=value,
    )


def _paraphrase(random: Random, test: bool) -> Puzzle:
    """No word in common between statement and question but those that every question has."""
    first = random.choice([name for name in FIRST_NAMES if name in NICKNAMES])
    while is_test(name := f"{first} {random.choice(LAST_NAMES)}") != test:
        pass
    value = _number(random, test)
    statement = random.choice(
        ("The code for {n} is {v}.", "{n} was given the code {v}.", "Remember that the code for {n} is {v}.")
    ).format(n=name, v=value)
    nickname = NICKNAMES[first]
    ask = random.choice(
        (f"What number does {nickname} have?", f"Which digits belong to {nickname}?", f"What is {nickname}'s number?")
    )
    return Puzzle(key="paraphrase", subjects=(first,), statements=(statement,), ask=ask, value=value)


def _hop(random: Random, test: bool) -> Puzzle:
    """The answer stands where another statement points to."""
    name, value = _name(random, test), _number(random, test)
    owned, place = random.choice(OWNED), f"the {made_up_word(random)} {random.choice(THINGS)}"
    statements = [f"The {owned} of {name} is {place}.", f"The code for {place} is {value}."]
    random.shuffle(statements)
    return Puzzle(
        key="hop",
        subjects=(name, place),
        statements=tuple(statements),
        ask=f"What is the code for the {owned} of {name}?",
        value=value,
    )


def _chain(random: Random, test: bool) -> Puzzle:
    """A value handed on from variable to variable."""
    value = _number(random, test)
    variables = [f"{made_up_word(random).lower()}{random.randrange(10)}" for _ in range(random.choice((2, 3)))]
    links = tuple(f"{later} = {earlier}." for earlier, later in itertools.pairwise(variables))
    return Puzzle(
        key="chain",
        subjects=tuple(variables),
        statements=(f"{variables[0]} = {value}.", *links),
        ask=f"What is the value of {variables[-1]}?",
        value=value,
    )


def _count(random: Random, test: bool) -> Puzzle:
    """How often something was said."""
    name, city, times = _name(random, test), random.choice(CITIES), random.randint(1, 4)
    others = [place for place in CITIES if place != city]
    visits = [city] * times + random.sample(others, random.randint(0, 2))
    random.shuffle(visits)
    forms = ("{n} went to {c}.", "{n} was in {c} again.", "{n} spent a day in {c}.")
    statements = tuple(random.choice(forms).format(n=name, c=place) for place in visits)
    statements = tuple(text[0].upper() + text[1:] for text in statements)
    return Puzzle(
        key="count",
        subjects=(name,),
        statements=statements,
        ask=f"How many times was {name} in {city}?",
        value=f"{times}",
        beside_it=frozenset(number for number, place in enumerate(visits) if place != city),
    )


PUZZLES: dict[str, Callable[[Random, bool], Puzzle]] = {
    "alias": _alias,
    "chain": _chain,
    "count": _count,
    "hop": _hop,
    "paraphrase": _paraphrase,
    "update": _update,
}


def draw_puzzles(random: Random, count: int, *, test: bool = False, key: str | None = None) -> list[Puzzle]:
    """Puzzles of the training or the test split, none of them about what another one is about."""
    puzzles: list[Puzzle] = []
    while len(puzzles) < count:
        made = PUZZLES[key or random.choice(list(PUZZLES))](random, test)
        if not any(made.is_about(other) or other.is_about(made) for other in puzzles):
            puzzles.append(made)
    return puzzles
