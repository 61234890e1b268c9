"""bAbI in the manner of BABILong: the sentences of a story, in order, scattered among those of a novel.

Tasks qa1 to qa5 need one to three facts, or relations between two and three. The answer is one word of few, so beside
what a method says, the likeliest of all answers of that task is a choice that also a small base can make.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any, NamedTuple

from megacontext.documents.records import Record, text_field
from megacontext.errors import InvalidValueError
from megacontext.evaluation.data_folder import NOVELS, DataFolder
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS, hide, stretch
from megacontext.evaluation.tasks.task import (
    ANSWER_NATS,
    RIGHT,
    SCORE,
    Case,
    Choice,
    Document,
    Plan,
    Question,
    Setup,
    Task,
    length_name,
)
from megacontext.values import shown, text, whole_number

__all__ = ["NUM_TASKS", "BabiTask"]

FILE = "babi/babi_en_1k.jsonl.xz"
NUM_TASKS = 5
MARK = "<{number}> "


class Story(NamedTuple):
    """facts: by line; questions: line, question, answer, and the lines of the facts that it takes."""

    kind: int
    facts: list[tuple[int, str]]
    questions: list[tuple[int, str, str, tuple[int, ...]]]


class BabiTask(Task):
    """Reasoning over facts that lie far apart."""

    name = "babi"
    summary = "bAbI qa1 to qa5 in the text of novels, BABILong's way, 4 k to 1 M tokens"
    source = "Kuratov et al. (2024), BABILong; Weston et al. (2015), bAbI tasks (test split)"
    metrics = (RIGHT, SCORE, ANSWER_NATS)
    columns = ("length", "kind")
    needs = (FILE,)
    reads = (NOVELS,)

    def plans(self, setup: Setup) -> list[Plan]:
        stories = _stories(setup.data)
        return [
            Plan(
                key=(key := f"babi/{length}/qa{kind}/{number}"),
                facets={"length": length_name(length), "kind": f"qa{kind}"},
                make=partial(babi_case, setup, key, length, kind, stories[kind]),
            )
            for length in setup.chosen_lengths((4096, 16384, 65536, 262144, 1048576), (2048,))
            for kind in range(1, NUM_TASKS + 1)
            for number in range(setup.samples(10 if length < 1 << 18 else 2, 1))
        ]


def _stories(data: DataFolder) -> dict[int, list[Story]]:
    found: dict[int, list[Story]] = {kind: [] for kind in range(1, NUM_TASKS + 1)}
    for story in data.records(FILE, _story):
        if story is not None:
            found[story.kind].append(story)
    for kind, stories in found.items():
        if not stories:
            raise InvalidValueError(
                f"{data.path(FILE)} has no stories of qa{kind} in the split 'test'; give one that has some of qa1 to "
                f"qa{NUM_TASKS}"
            )
    return found


def _story(record: Record) -> Story | None:
    """None for one that is not asked about."""
    kind = whole_number("task_no", record["task_no"])
    if text_field(record, "split") != "test" or not 1 <= kind <= NUM_TASKS:
        return None
    facts = [(whole_number("the line of a fact", line), text("a fact", fact)) for line, fact in record["facts"]]
    questions = [
        (
            whole_number("the line of a question", line),
            text("a question", said),
            text("an answer", answer),
            tuple(lines),
        )
        for line, said, answer, lines in record["questions"]
    ]
    if not questions:
        raise InvalidValueError("the story has no questions; give it one, or leave the line out")
    for line, said, _, lines in questions:
        strange = set(lines) - {number for number, _ in facts if number < line}
        if strange:
            raise InvalidValueError(
                f"the question {shown(said)} takes the line {shown(min(strange, key=str))}, which is no fact before "
                "it; correct it, or leave the line out"
            )
    return Story(kind, facts, questions)


def babi_case(setup: Setup, key: str, length: int, kind: int, stories: list[Story]) -> Case:
    """One story up to one of its questions, hidden in a novel that is at least as long."""
    random = setup.random(key)
    for story in random.sample(stories, len(stories)):
        line, asked, answer, supporting = random.choice(story.questions)
        facts = [(number, fact) for number, fact in story.facts if number < line]
        used = sum(len(setup.codec.encode(f"{fact} ").token_ids) + 1 for _, fact in facts)
        free = length - ROOM_TOKENS - used
        if free >= max(used, 1):
            break
    else:
        raise InvalidValueError(f"a length of {length} holds no story of qa{kind} and as much of a novel; use 4k")
    novel = stretch(random, setup.codec, setup.data.books, free)
    history, spans = _scatter(random, setup, novel, facts)
    options = tuple(sorted({found for other in stories for _, _, found, _ in other.questions}))
    evidence = tuple(spans[number] for number in supporting)
    return Case(
        documents=(Document(name="novel", token_ids=history),),
        items=(
            Choice(text=asked, options=options, right=options.index(answer), evidence=evidence),
            Question(
                text=asked, expected=tuple(answer.split(",")), gold=f" {answer}.", evidence=evidence, max_new_tokens=8
            ),
        ),
    )


def _scatter(random: Random, setup: Setup, novel: str, facts: list[tuple[int, str]]) -> tuple[Any, dict[int, Any]]:
    """The tokens of the novel with the facts in it, in order, and the range of each: a story may say a thing twice, so
    words alone do not tell where."""
    depths = sorted(random.random() for _ in facts)
    marked = hide(novel, [MARK.format(number=number) + fact for number, fact in facts], depths)
    parts: list[str] = []
    char_spans: dict[int, tuple[int, int]] = {}
    rest, done = marked, 0
    for number, fact in facts:
        before, _, rest = rest.partition(MARK.format(number=number))
        parts += [before, fact]
        done += len(before)
        char_spans[number] = (done, done + len(fact))
        done += len(fact)
        rest = rest[len(fact) :]
    encoded = setup.codec.encode("".join([*parts, rest]))
    starts = encoded.char_starts
    spans = {
        number: (
            int(starts.searchsorted(low, side="right")) - 1,
            int(starts.searchsorted(high, side="left")),
        )
        for number, (low, high) in char_spans.items()
    }
    return encoded.token_ids, spans
