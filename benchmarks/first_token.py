"""Time to the first token after a jump of attention: a question about something far away in 1 M tokens of history.

Facts are hidden in real text and asked for one after another, so each question wants another part of the history. By
turns, in an order drawn anew for each, on the same model, with as many entries in the window:

- prefill: the last tokens, all of them computed for every question: what a window costs that is made anew;
- RAG: the passages that the same index finds, then the last tokens; what two prompts begin with is not run again;
- StreamingLLM: the first tokens and the last, computed once and kept, so that only the question runs. Fast and blind;
- MegaContext: a session whose window holds what the question before wanted; search, lens, patch and question;
- the same with kv='exact', and with a lens that is told where the answer stands: whether a wrong answer is the fault of
  patching, of choosing, or of the model that reads the window.

The clock runs from the question to its first token. Answers go on after it, so that being right stands beside being
fast. Memory and model are warm. python benchmarks/first_token.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.haystack import build_haystack
from megacontext.evaluation.hidden_facts import answer_value
from megacontext.evaluation.library import assemble_library
from megacontext.evaluation.methods.method import ANSWER_TOKENS
from megacontext.evaluation.methods.plain import PlainWindow, Recency, Sinks
from megacontext.evaluation.methods.retrieval import Retrieval
from megacontext.evaluation.trials import Question
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.ports.base import Base
from megacontext.runtime.events import DoneEvent, RefocusEvent, TokenEvent
from megacontext.runtime.opened import OpenedMemory
from record import parser, record, row

NUM_WARM = 2
SEED = 1
QUESTION_ENTRIES = 48  # that StreamingLLM's window leaves to a question and its answer
AT_LEAST = 3.0


class KeptSinks(Sinks):
    """StreamingLLM's window, the same for every question, so that its cache is kept."""

    def window_room(self, num_prompt: int) -> int:
        assert num_prompt <= QUESTION_ENTRIES
        return self.budget_entries - QUESTION_ENTRIES


class Contender:
    """Answers questions; notes when the first token came, and whether the answer was right."""

    def __init__(self, name: str, ask: Callable[[Question], tuple[float, str]]) -> None:
        self.name = name
        self._ask = ask
        self.ms: list[float] = []
        self.right: list[bool] = []

    def answer(self, question: Question) -> None:
        ms, answer = self._ask(question)
        self.ms.append(ms)
        self.right.append(answer_value(answer) == question.fact.value)


def plain(method: PlainWindow, *, anew: bool) -> Callable[[Question], tuple[float, str]]:
    """Ask a window of tokens. ``anew``: forget what was computed for the question before."""
    moments: list[float] = []
    logits = method._logits

    def watched(*args: Any) -> torch.Tensor:
        found = logits(*args)
        moments.append(time.perf_counter())
        return found

    method._logits = watched  # type: ignore[assignment, method-assign]

    def ask(question: Question) -> tuple[float, str]:
        if anew:
            method.close()
        moments.clear()
        began = time.perf_counter()
        answer = method.answer(question.fact.question, evidence=())
        return 1e3 * (moments[0] - began), answer

    return ask


class Asked:
    """A session, what of its first tokens was the decision, and how many entries ran for them. told: its lens knows
    where the answer stands."""

    def __init__(self, memory: OpenedMemory, budget_entries: int, *, kv: str = "auto", told: bool = False) -> None:
        self._oracle = OracleLens(spans=()) if told else None
        self.session = memory.session(budget_entries=budget_entries, kv=kv, lens=self._oracle or "auto")
        self.focus_ms: list[float] = []
        self.num_run: list[int] = []

    def ask(self, question: Question) -> tuple[float, str]:
        first, answer = 0.0, ""
        if self._oracle is not None:
            self._oracle.spans = (question.evidence,)
        ran, began = self.session.num_forwarded_entries, time.perf_counter()
        for event in self.session.generate(question.fact.question, max_new_tokens=ANSWER_TOKENS):
            if isinstance(event, RefocusEvent) and not event.num_generated:
                self.focus_ms.append(event.report.latency_ms)
            if isinstance(event, TokenEvent) and not first:
                first = 1e3 * (time.perf_counter() - began)
                self.num_run.append(self.session.num_forwarded_entries - ran)
            if isinstance(event, DoneEvent):
                answer = event.text
        return first, answer


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], asks_dtype=True)
    arguments.add_argument("--base", default="reference")
    arguments.add_argument("--tokens", type=int, default=1_000_000)
    arguments.add_argument("--windows", type=int, nargs="+", default=[1024, 2048])
    arguments.add_argument("--questions", type=int, default=40)
    given = arguments.parse_args()
    handle = BaseHandle(given.base, dtype=given.dtype)
    gister = "gistnet" if handle.info.gist_net else "mean"
    library = assemble_library(handle.codec, num_tokens=given.tokens, seed=SEED)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        haystack = build_haystack(Path(folder), handle, library, num_facts=given.questions, seed=SEED, gister=gister)
        questions = [
            Question(fact=place.fact, evidence=span)
            for place, span in zip(haystack.hidden, haystack.spans, strict=True)
        ]
        with haystack.memory as memory:
            for budget_entries in given.windows:
                rows += measure(memory, handle.load(), questions, budget_entries)
    record("first_token", rows, given.out)


def measure(
    memory: OpenedMemory, base: Base, questions: Sequence[Question], budget_entries: int
) -> list[dict[str, object]]:
    """Ratios of first tokens, then what each contender answered."""
    asked = Asked(memory, budget_entries)
    methods = [kind(memory, base, budget_entries=budget_entries) for kind in (Recency, Retrieval, KeptSinks)]
    names = ("prefill", "RAG", "StreamingLLM")
    peers = [
        Contender(name, plain(method, anew=name == "prefill")) for name, method in zip(names, methods, strict=True)
    ]
    exact, told = Asked(memory, budget_entries, kv="exact"), Asked(memory, budget_entries, told=True)
    peers.append(Contender("MegaContext, exact", exact.ask))
    ours, oracle = Contender("MegaContext", asked.ask), Contender("MegaContext, told where", told.ask)
    everyone, random = [*peers, ours, oracle], Random(SEED)
    for question in questions:
        for contender in random.sample(everyone, len(everyone)):  # whoever comes later finds warm what the first read
            contender.answer(question)
    where = f"window of {budget_entries:,}, {memory.num_tokens / 1e6:.1f} M tokens"
    ours_ms = statistics.median(ours.ms[NUM_WARM:])
    rows = [
        row(
            f"first token after a jump, {where}: {peer.name} / MegaContext",
            statistics.median(their / our for their, our in zip(peer.ms[NUM_WARM:], ours.ms[NUM_WARM:], strict=True)),
            "x",
            at_least=AT_LEAST if peer.name == "prefill" else None,
            theirs_ms=statistics.median(peer.ms[NUM_WARM:]),
            ours_ms=ours_ms,
            focus_ms=statistics.median(asked.focus_ms[NUM_WARM:]),
            entries_run=statistics.mean(asked.num_run[NUM_WARM:]),
            threads=torch.get_num_threads(),
            dtype=base.info.dtype,
        )
        for peer in peers
    ]
    rows += [
        row(
            f"right answers, {where}: {each.name}",
            100 * statistics.mean(each.right),
            "%",
            questions=len(questions),
            dtype=base.info.dtype,
        )
        for each in (*peers, ours, oracle)
    ]
    for method in methods:
        method.close()
    for each in (asked, exact, told):
        each.session.close()
    return rows


if __name__ == "__main__":
    main()
