"""LongEval's lines: a register among hundreds of look-alikes.

    line tacit-colonial: REGISTER_CONTENT is <14564>

The cases are those that LongEval ships, as far as they fill a length. Where one is longer, lines are left out by
chance, never the one that is asked for, and the rest stay in order: so that a model meets the lengths that it can read.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from megacontext.errors import InvalidValueError
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS
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

__all__ = ["LinesTask"]

FILE = "longeval/lines.jsonl.xz"
SAMPLE_LINES = 50
LINE = re.compile(r"^line \S+: REGISTER_CONTENT is <\d+>$", re.MULTILINE)


class LinesTask(Task):
    """One register of many."""

    name = "lines"
    summary = "LongEval lines: the content of one register among hundreds"
    source = "Li et al. (2023), How long can open-source LLMs truly promise on context length? (LongChat, LongEval)"
    metrics = (SCORE, ANSWER_NATS)
    columns = ("length",)
    needs = (FILE,)

    def plans(self, setup: Setup) -> list[Plan]:
        records = setup.data.records(FILE)
        return plans_by_length(
            self.name, setup, partial(lines_case, records=records), usual=((2048, 4096, 16384), 20), quick=((2048,), 2)
        )


def lines_case(setup: Setup, key: str, length: int, records: list[dict[str, Any]]) -> Case:
    """A record of lines, as many as fit of a shipped case that is long enough."""
    random = setup.random(key)
    record = random.choice(_long_enough(setup, length, records))
    lines = LINE.findall(str(record["prompt"]))
    correct = str(record["correct_line"]).strip()
    free = length - ROOM_TOKENS - len(setup.codec.encode(correct).token_ids) - 1
    order = [number for number, line in enumerate(lines) if line != correct]
    random.shuffle(order)
    kept = {lines.index(correct)}
    for number in order:
        free -= len(setup.codec.encode(lines[number]).token_ids) + 1
        if free < 0:
            break
        kept.add(number)
    value, name = str(record["expected_number"]), str(record["random_idx"][0])
    question = Question(
        text=f"What is the <REGISTER_CONTENT> in line {name}?",
        expected=(value,),
        gold=f" {value}.",
        evidence=(correct,),
        max_new_tokens=16,
    )
    text = "\n".join(lines[number] for number in sorted(kept))
    return Case(documents=(Document(name="record", text=text),), items=(question,))


def _long_enough(setup: Setup, length: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases whose lines fill a length; raises InvalidValueError if there are none."""
    some = LINE.findall(str(records[0]["prompt"]))[:SAMPLE_LINES]
    tokens_per_line = len(setup.codec.encode("\n".join(some)).token_ids) / max(1, len(some))
    num_tokens = [tokens_per_line * str(record["prompt"]).count("\nline ") for record in records]
    found = [record for record, tokens in zip(records, num_tokens, strict=True) if tokens >= length - ROOM_TOKENS]
    if not found:
        raise InvalidValueError(
            f"a length of {length} is more than the longest case of {FILE} holds, some {max(num_tokens):.0f} tokens; "
            "use a smaller one"
        )
    return found
