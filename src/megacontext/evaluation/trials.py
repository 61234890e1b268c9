"""Every method on the same questions and continuations, one after another, with what it costs in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megacontext.evaluation.continuations import Continuation
from megacontext.evaluation.hidden_facts import Fact, answer_value
from megacontext.evaluation.methods.method import Method, Span
from megacontext.evaluation.scores import MethodScore

__all__ = ["Answered", "Question", "Tally", "ask_all", "read_on"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A fact and where it stands in the memory."""

    fact: Fact
    evidence: Span


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a method said."""

    question: Question
    answer: str

    @property
    def correct(self) -> bool:
        return answer_value(self.answer) == self.question.fact.value


@dataclass
class Tally:
    """Trials of one method as they come in."""

    name: str
    label: str
    correct: list[bool] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(cls, method: Method) -> Tally:
        return cls(name=method.name, label=method.label)

    def score(self) -> MethodScore:
        return MethodScore(name=self.name, label=self.label, correct=self.correct, nats=self.nats, seconds=self.seconds)


def ask_all(
    method: Method, questions: Sequence[Question], tally: Tally, on_answer: Callable[[Answered], None] | None = None
) -> None:
    """Ask a method every question; ``on_answer`` sees each answer while the method's state is still there."""
    for question in questions:
        began = time.perf_counter()
        answer = method.answer(question.fact.question, evidence=(question.evidence,))
        answered = Answered(question=question, answer=answer)
        tally.seconds += time.perf_counter() - began
        tally.correct.append(answered.correct)
        if on_answer:
            on_answer(answered)


def read_on(
    methods: Sequence[Method],
    continuations: Sequence[Continuation],
    tallies: Sequence[Tally],
    on_step: Callable[[], None] | None = None,
) -> None:
    """Let the memory that all methods share read the context of each continuation, then score its target."""
    memory = methods[0].memory
    for number, continuation in enumerate(continuations):
        memory.append(continuation.context_ids, source=f"{continuation.name} (continued {number})")
        for method, tally in zip(methods, tallies, strict=True):
            began = time.perf_counter()
            tally.nats.append(float(method.nll(continuation.target_ids).mean()))
            tally.seconds += time.perf_counter() - began
        if on_step:
            on_step()
