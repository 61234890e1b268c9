"""Variable tracking and common words, by the definitions of RULER: what no single passage answers.

    VAR XKQLA = 48213 ... VAR PLMWE = VAR XKQLA ...       which variables have the value 48213?
    1. apple 2. river 3. apple ...                        which ten words are most common?

Chains, hops, frequencies, noise and scoring are RULER's; its one solved example before the question is left out, and
prompts are put as each base was taught to be asked.
"""

from __future__ import annotations

import string
from bisect import bisect_right
from functools import partial
from itertools import pairwise

from megacontext.errors import InvalidValueError
from megacontext.evaluation.data_folder import ADJECTIVE_LIST, NOUN_LIST, VERB_LIST
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS
from megacontext.evaluation.tasks.needle import NOISE
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

__all__ = ["CommonWordsTask", "VariablesTask"]

NUM_CHAINS, NUM_HOPS = 1, 4
NAME_LETTERS = 5
NUM_COMMON, COMMON_TIMES, OTHER_TIMES = 10, 30, 3
LEAST_SHARE = 0.9  # of its length that a list must fill
WORD_LISTS = (NOUN_LIST, ADJECTIVE_LIST, VERB_LIST)
RULER = "Hsieh et al. (2024), RULER: What's the real context size of your long-context language models?"


class VariablesTask(Task):
    """A value that is handed on from variable to variable."""

    name = "variables"
    summary = "RULER's variable tracking: all variables of a chain of four hops"
    source = RULER
    metrics = (SCORE, ANSWER_NATS)
    columns = ("length",)

    def plans(self, setup: Setup) -> list[Plan]:
        return plans_by_length(self.name, setup, variables_case, usual=((4096, 32768, 131072), 20), quick=((2048,), 2))


def variables_case(setup: Setup, key: str, length: int) -> Case:
    """Noise with one chain of assignments in it, in order."""
    random = setup.random(key)
    names: list[str] = []
    while len(names) < NUM_CHAINS * (NUM_HOPS + 1):
        name = "".join(random.choices(string.ascii_uppercase, k=NAME_LETTERS))
        names += [] if name in names else [name]
    value = str(random.randrange(10_000, 100_000))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {name} = VAR {before}" for before, name in pairwise(names)]
    gold = f" {', '.join(names)}."
    gold_tokens = _count(setup, gold)
    free = length - ROOM_TOKENS - 2 * gold_tokens - _count(setup, "\n".join(chain)) - len(chain)
    lines = [NOISE] * int(free / (_count(setup, "\n".join([NOISE] * 16)) / 16))
    places = sorted(random.sample(range(len(lines) + 1), len(chain)))
    for offset, (place, line) in enumerate(zip(places, chain, strict=True)):
        lines.insert(place + offset, line)
    question = Question(
        text=f"Find all variables that are assigned the value {value} in the text above.",
        expected=tuple(names),
        gold=gold,
        evidence=tuple(chain),
        max_new_tokens=gold_tokens + 16,
    )
    return Case(documents=(Document(name="assignments", text="\n".join(lines)),), items=(question,))


class CommonWordsTask(Task):
    """Ten words that come thirty times each, among many that come three times."""

    name = "words"
    summary = "RULER's common words: the ten most frequent of a long list"
    source = RULER
    metrics = (SCORE, ANSWER_NATS)
    columns = ("length",)
    reads = WORD_LISTS

    def plans(self, setup: Setup) -> list[Plan]:
        usual: tuple[int, ...] = (4096, 16384, 32768)
        quick: tuple[int, ...] = (4096,)
        if not setup.data.folder:  # the short lists make no more than one of these, by the tokenizer
            usual = quick = (next(filter(partial(_can_list, setup), (4096, 2048)), 4096),)
        return plans_by_length(self.name, setup, common_words_case, usual=(usual, 20), quick=(quick, 2))


def _can_list(setup: Setup, length: int) -> bool:
    try:
        common_words_case(setup, "", length)
    except InvalidValueError:
        return False
    return True


def common_words_case(setup: Setup, key: str, length: int) -> Case:
    """A numbered list in random order."""
    random = setup.random(key)
    known = sorted({word.lower() for name in WORD_LISTS for word in setup.data.words(name) if word.isalpha()})
    random.shuffle(known)
    common, others = known[:NUM_COMMON], known[NUM_COMMON:]
    gold = " " + " ".join(f"{number + 1}. {word}" for number, word in enumerate(common))
    gold_tokens = _count(setup, gold)
    limit = length - ROOM_TOKENS - 2 * gold_tokens

    def listed(num_others: int) -> str:
        words = common * COMMON_TIMES + others[:num_others] * OTHER_TIMES
        setup.random(key, "order").shuffle(words)
        return " ".join(f"{number + 1}. {word}" for number, word in enumerate(words))

    num_others = bisect_right(range(len(others) + 1), limit, key=lambda count: _count(setup, listed(count))) - 1
    if num_others < 1:
        raise InvalidValueError(
            f"a length of {length} cannot hold {NUM_COMMON} words {COMMON_TIMES} times and others beside them; use at "
            f"least {2 * _count(setup, listed(0))}"
        )
    if num_others == len(others) and _count(setup, listed(num_others)) < LEAST_SHARE * limit:
        raise InvalidValueError(
            f"a length of {length} takes more different words than the {len(known)} at hand, which make "
            f"{_count(setup, listed(num_others))} tokens; use a smaller length, or a data folder with longer lists"
        )
    question = Question(
        text="What are the 10 most common words in the above list?",
        expected=tuple(common),
        gold=gold,
        evidence=(),
        max_new_tokens=gold_tokens + 16,
    )
    return Case(documents=(Document(name="list", text=listed(num_others)),), items=(question,))


def _count(setup: Setup, text: str) -> int:
    return len(setup.codec.encode(text).token_ids)
