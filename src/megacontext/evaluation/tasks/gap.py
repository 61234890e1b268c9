"""Gap closure: how much of what full context gives is left at a quarter to a thirty-second of the window.

One history serves all windows: a novel with codes in it, which are asked for, and its own next 64 tokens. A length
counts history, question and answer; a window is a share of it. Where full context does not fit there is no closure.
"""

from __future__ import annotations

from functools import partial

from megacontext.evaluation.data_folder import NOVELS
from megacontext.evaluation.hidden_facts import SENTENCES, draw_facts
from megacontext.evaluation.tasks.distance import fact_question
from megacontext.evaluation.tasks.far_copy import FAR_METRICS, going_on
from megacontext.evaluation.tasks.going_on import TARGET_TOKENS
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS, hide, stretch_texts
from megacontext.evaluation.tasks.task import (
    ANSWER_NATS,
    SCORE,
    Case,
    Document,
    Plan,
    Setup,
    Task,
    length_name,
)

__all__ = ["SHARES", "GapTask"]

SHARES = (4, 8, 16, 32)
NUM_FACTS = 4


class GapTask(Task):
    """Recall and prediction in windows that are a share of the history."""

    name = "gap"
    summary = "gap closure in windows of 1/4 to 1/32 of the history: codes in a novel, and how it goes on"
    source = "closure: (recency - method) / (recency - full), none where full context gains less than 0.1"
    metrics = (ANSWER_NATS, SCORE, *FAR_METRICS[:2])
    columns = ("length", "window")
    reads = (NOVELS,)

    def plans(self, setup: Setup) -> list[Plan]:
        return [
            Plan(
                key=(key := f"gap/{length}/{number}"),
                facets={"length": length_name(length)},
                make=partial(gap_case, setup, key, length),
                windows={length // share: f"1/{share}" for share in SHARES},
            )
            for length in setup.chosen_lengths((2048, 4096, 8192, 32768, 131072), (4096,))
            for number in range(setup.samples(16, 3))
        ]


def gap_case(setup: Setup, key: str, length: int) -> Case:
    """A novel with codes at random depths."""
    random = setup.random(key)
    facts = draw_facts(random, NUM_FACTS)
    statements = [random.choice(SENTENCES).format(n=fact.name, v=fact.value) for fact in facts]
    used = sum(len(setup.codec.encode(statement).token_ids) + 2 for statement in statements)
    plain, following = stretch_texts(
        random, setup.codec, setup.data.books, length - ROOM_TOKENS - used, 2 * TARGET_TOKENS
    )
    history = hide(plain, statements, [random.random() for _ in facts])
    token_ids, continuation = going_on(
        setup.codec, history, following, TARGET_TOKENS, is_code=False, facets={"item": "text"}
    )
    questions = [
        fact_question(random, fact, statement, {"item": "code"})
        for fact, statement in zip(facts, statements, strict=True)
    ]
    return Case(documents=(Document(name="novel", token_ids=token_ids),), items=(*questions, continuation))
