"""Recall by distance: one code, told once in a novel, asked for when so many tokens have gone by.

Names and codes are held out from training. Half of the questions repeat the words of their statement, half do not: a
word index alone cannot answer those.
"""

from __future__ import annotations

from random import Random

from megacontext.evaluation.data_folder import NOVELS
from megacontext.evaluation.hidden_facts import SENTENCES, Fact, draw_facts
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
    plans_by_length,
)

__all__ = ["DISTANCES", "PARAPHRASES", "DistanceTask", "fact_question"]

DISTANCES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576)
PARAPHRASES = ("Which digits belong to {n}?", "Which number was {n} given?", "What do I have to type for {n}?")


class DistanceTask(Task):
    """Exact recall of held-out codes from ever farther back."""

    name = "distance"
    summary = "recall of a five-digit code by its distance from the question"
    source = "held-out names and codes in novels of the test side, as in `megacontext demo`"
    metrics = (SCORE, ANSWER_NATS)
    columns = ("distance",)
    reads = (NOVELS,)

    def plans(self, setup: Setup) -> list[Plan]:
        return plans_by_length(self.name, setup, distance_case, usual=((131072,), 8), quick=((4096,), 2))


def distance_case(setup: Setup, key: str, length: int) -> Case:
    """A novel with a fact at each distance that it has room for."""
    random = setup.random(key)
    distances = [distance for distance in DISTANCES if distance < length]
    facts = draw_facts(random, len(distances))
    statements = [random.choice(SENTENCES).format(n=fact.name, v=fact.value) for fact in facts]
    used = sum(len(setup.codec.encode(statement).token_ids) + 1 for statement in statements)
    num_tokens = length - ROOM_TOKENS
    text = stretch(random, setup.codec, setup.data.books, num_tokens - used)
    # somewhere between half a distance and the distance itself
    depths = [1 - distance * random.uniform(0.55, 0.95) / num_tokens for distance in distances]
    items = [
        fact_question(random, fact, statement, {"distance": length_name(distance)})
        for fact, statement, distance in zip(facts, statements, distances, strict=True)
    ]
    return Case(documents=(Document(name="novel", text=hide(text, statements, depths)),), items=tuple(items))


def fact_question(random: Random, fact: Fact, statement: str, facets: dict[str, str]) -> Question:
    """A question about a code, in the words of its statement or in others."""
    is_paraphrased = random.random() < 0.5
    return Question(
        text=random.choice(PARAPHRASES).format(n=fact.name) if is_paraphrased else fact.question,
        expected=(fact.value,),
        gold=f" {fact.value}.",
        evidence=(statement,),
        facets={**facets, "wording": "other words" if is_paraphrased else "same words"},
    )
