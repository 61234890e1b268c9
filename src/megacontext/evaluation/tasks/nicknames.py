"""Recall where question and statement share no word that tells: the text says Robert Moore, the question says Bob.

    The code for Robert Moore is 48213.     Which digits belong to Bob?

A word index cannot find the place; who knows that Bob is a Robert can. Every history tells of as many first names as it
has room for, so that finding any code is not enough. The bundled core was taught these nicknames, with other people and
codes, and half of the wordings; the other half it has never seen.
"""

from __future__ import annotations

from random import Random

from megacontext.evaluation.data_folder import NOVELS
from megacontext.evaluation.held_out import is_held_out
from megacontext.evaluation.hidden_facts import LAST_NAMES, Fact, draw_value
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
    plans_by_length,
)

__all__ = ["NICKNAMES", "NicknamesTask", "nicknames_case"]

# none is a part of its name: tokens of the two would be alike
NICKNAMES = dict(
    pair.split("/")
    for pair in (
        "Alice/Ally Robert/Bob James/Jim Susan/Sue David/Dave Thomas/Tom Edward/Ned Henry/Hank Rachel/Rae Monica/Mona "
        "Philip/Pip Teresa/Tess Harold/Hal Miriam/Mim Cynthia/Cindy Nathan/Nate Tariq/Taz Anton/Tony"
    ).split()
)
STATEMENTS = ("The code for {n} is {v}.", "{n} was given the code {v}.", "Remember that the code for {n} is {v}.")
QUESTIONS = {
    "taught": ("What number does {n} have?", "Which digits belong to {n}?", "What is {n}'s number?"),
    "new": ("Which number is {n}'s?", "What digits does {n} use?", "Do you know the number that {n} has?"),
}
MOST_FACTS = 16
TOKENS_PER_FACT = 160  # a history tells no more than so densely


class NicknamesTask(Task):
    """Exact recall of held-out codes asked for by nickname."""

    name = "nicknames"
    summary = "recall of a five-digit code by nickname: question and statement share no word that tells"
    source = "after Modarressi et al. (2025), NoLiMa: Long-Context Evaluation Beyond Literal Matching; our own needles"
    metrics = (SCORE, ANSWER_NATS)
    columns = ("length", "wording")
    reads = (NOVELS,)

    def plans(self, setup: Setup) -> list[Plan]:
        return plans_by_length(self.name, setup, nicknames_case, usual=((4096, 32768, 131072), 4), quick=((2048,), 1))


def nicknames_case(setup: Setup, key: str, length: int) -> Case:
    """A novel that tells the codes of people with different first names, at random depths, and asks for each."""
    random = setup.random(key)
    facts = _draw_people(random, min(MOST_FACTS, max(1, length // TOKENS_PER_FACT)))
    told = {first: random.choice(STATEMENTS).format(n=fact.name, v=fact.value) for first, fact in facts.items()}
    used = sum(len(setup.codec.encode(statement).token_ids) + 1 for statement in told.values())
    text = stretch(random, setup.codec, setup.data.books, length - ROOM_TOKENS - used)
    wordings = {first: random.choice(list(QUESTIONS)) for first in facts}
    items = tuple(
        Question(
            text=random.choice(QUESTIONS[wordings[first]]).format(n=NICKNAMES[first]),
            expected=(fact.value,),
            gold=f" {fact.value}.",
            evidence=(told[first],),
            facets={"wording": wordings[first]},
        )
        for first, fact in facts.items()
    )
    novel = hide(text, list(told.values()), [random.random() for _ in told])
    return Case(documents=(Document(name="novel", text=novel),), items=items)


def _draw_people(random: Random, count: int) -> dict[str, Fact]:
    """Facts by first name; whole names and values are held out from training, nicknames are not."""
    facts: dict[str, Fact] = {}
    for first in random.sample(list(NICKNAMES), count):
        names = [name for last in LAST_NAMES if is_held_out(name := f"{first} {last}")]
        value = draw_value(random, taken={fact.value for fact in facts.values()})
        facts[first] = Fact(name=random.choice(names), value=value)
    return facts
