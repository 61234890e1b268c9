"""Questions of puzzles in words that no row of training has: does a core read a question, or know it by heart?

Names and numbers of the test split are new to a core, the sentences that ask for them are not: it was taught every one.
Here each kind of puzzle has three questions of its own that no recipe draws, so what is lost in them is told apart.
"""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from megacontext.training.puzzles import Puzzle

__all__ = ["UNSEEN", "in_unseen_words"]

TAUGHT = {
    "alias": r"What is the code for (?P<n>.+)\?",
    "chain": r"What is the value of (?P<n>\w+)\?",
    "count": r"How many times was (?P<n>.+) in (?P<c>\w+)\?",
    "hop": r"What is the code for the (?P<o>\w+) of (?P<n>.+)\?",
    "paraphrase": r"(?:What number does|Which digits belong to|What is) (?P<n>\w+?)(?:'s number| have)?\?",
    "update": r"What is the code for (?P<n>.+?)(?: now)?\?",
}
"""What a kind of puzzle asks in training, with the names that the question is about."""

UNSEEN: dict[str, tuple[str, ...]] = {
    "alias": ("Which code does {n} go by?", "Do you know the code that {n} has?", "Tell me the code to use for {n}?"),
    "chain": ("Which number does {n} hold?", "What does {n} come to?", "Do you know the number in {n}?"),
    "count": (
        "How often did {n} visit {c}?",
        "What is the number of visits of {n} to {c}?",
        "How many visits did {n} pay {c}?",
    ),
    "hop": (
        "Which code opens the {o} of {n}?",
        "Do you know the code that the {o} of {n} has?",
        "By which code does one enter the {o} of {n}?",
    ),
    "paraphrase": ("Which number is {n}'s?", "What digits does {n} use?", "Do you know the number that {n} has?"),
    "update": (
        "Which code does {n} have at present?",
        "Do you know the code that {n} has these days?",
        "By which code is {n} known today?",
    ),
}
"""Questions that no recipe draws, by kind of puzzle. Those by nickname share no word with their statements, either."""


def in_unseen_words(puzzle: Puzzle, random: Random) -> Puzzle:
    """The same puzzle asked in words that training has not. Raises KeyError for a kind that has none."""
    asked = re.fullmatch(TAUGHT[puzzle.key], puzzle.ask)
    assert asked is not None, f"{puzzle.ask!r} is no question of kind {puzzle.key}"
    return replace(puzzle, ask=random.choice(UNSEEN[puzzle.key]).format(**asked.groupdict()))
