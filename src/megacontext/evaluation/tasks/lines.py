"""LongEval's lines: a register among hundreds of look-alikes.

    line tacit-colonial: REGISTER_CONTENT is <14564>

The cases are those that LongEval ships. Where one is longer than a length allows, lines are left out by chance, never
the one that is asked for, and the rest stay in order: so that a model meets the lengths that it can read.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

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
    """A record of lines, as many of a shipped case as fit."""
    random = setup.random(key)
    record = random.choice(records)
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
