"""LongEval's lines: a register among hundreds of look-alikes.

    line tacit-colonial: REGISTER_CONTENT is <14564>

The cases are those that LongEval ships, as far as they fill a length. Where one is longer, lines are left out by
chance, never the one that is asked for, and the rest stay in order: so that a model meets the lengths that it can read.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

from megacontext.documents.records import Record, text_field
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
from megacontext.values import shown, text, whole_number

__all__ = ["LinesTask"]

FILE = "longeval/lines.jsonl.xz"
SAMPLE_LINES = 50
LINE = r"line \S+: REGISTER_CONTENT is <\d+>"


class Register(NamedTuple):
    """A case as it is shipped: lines, one of which is asked for by its name."""

    prompt: str
    name: str
    value: int

    @property
    def correct(self) -> str:
        """The line that is asked for."""
        return f"line {self.name}: REGISTER_CONTENT is <{self.value}>"

    @property
    def lines(self) -> list[str]:
        """Those of one word each, and the one that is asked for."""
        return re.findall(rf"^(?:{LINE}|{re.escape(self.correct)})$", self.prompt, re.MULTILINE)


class LinesTask(Task):
    """One register of many."""

    name = "lines"
    summary = "LongEval lines: the content of one register among hundreds"
    source = "Li et al. (2023), How long can open-source LLMs truly promise on context length? (LongChat, LongEval)"
    metrics = (SCORE, ANSWER_NATS)
    columns = ("length",)
    needs = (FILE,)

    def plans(self, setup: Setup) -> list[Plan]:
        records = setup.data.records(FILE, _register)
        return plans_by_length(
            self.name, setup, partial(lines_case, records=records), usual=((2048, 4096, 16384), 20), quick=((2048,), 2)
        )


def lines_case(setup: Setup, key: str, length: int, records: list[Register]) -> Case:
    """A record of lines, as many as fit of a shipped case that is long enough."""
    random = setup.random(key)
    record = random.choice(_long_enough(setup, length, records))
    lines, correct = record.lines, record.correct
    free = length - ROOM_TOKENS - len(setup.codec.encode(correct).token_ids) - 1
    order = [number for number, line in enumerate(lines) if line != correct]
    random.shuffle(order)
    kept = {lines.index(correct)}
    for number in order:
        free -= len(setup.codec.encode(lines[number]).token_ids) + 1
        if free < 0:
            break
        kept.add(number)
    question = Question(
        text=f"What is the <REGISTER_CONTENT> in line {record.name}?",
        expected=(str(record.value),),
        gold=f" {record.value}.",
        evidence=(correct,),
        max_new_tokens=16,
    )
    history = "\n".join(lines[number] for number in sorted(kept))
    return Case(documents=(Document(name="record", text=history),), items=(question,))


def _register(record: Record) -> Register:
    name, _ = record["random_idx"]
    register = Register(
        prompt=text_field(record, "prompt"),
        name=text("the name in random_idx", name),
        value=whole_number("expected_number", record["expected_number"]),
    )
    told = text_field(record, "correct_line").strip()
    if told != register.correct or told not in register.prompt.split("\n"):
        raise InvalidValueError(
            f"its prompt and correct_line do not both say {shown(register.correct)}, as its random_idx and "
            "expected_number do; correct it, or leave the line out"
        )
    return register


def _long_enough(setup: Setup, length: int, records: list[Register]) -> list[Register]:
    """The cases whose lines fill a length; raises InvalidValueError if there are none."""
    some = records[0].lines[:SAMPLE_LINES]
    tokens_per_line = len(setup.codec.encode("\n".join(some)).token_ids) / max(1, len(some))
    num_tokens = [tokens_per_line * max(1, record.prompt.count("\nline ")) for record in records]
    found = [record for record, tokens in zip(records, num_tokens, strict=True) if tokens >= length - ROOM_TOKENS]
    if not found:
        raise InvalidValueError(
            f"a length of {length} is more than the longest case of {FILE} holds, some {max(num_tokens):.0f} tokens; "
            "use a smaller one"
        )
    return found
