"""Sixteen sessions that step together against the same sixteen one after another: tokens a second, and whole answers.

*Steps.* Each has a window of its own over one memory of real text; windows differ in length. Then all decode. Rounds of
both ways alternate; windows grow alike.

*Answers.* ``mc.together`` against the same answers one after another, without refocuses and with one every 32 tokens,
the default. Each way has sessions of its own, warmed up by a question, so that both find the windows that their last
answers left; both are asked the same. The time until all have their first token (the question's refocus, and what it
runs) stands apart from that of the tokens after it. Time is the clock's; beside it stand the entries that ran.
python benchmarks/sessions_together.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import megacontext as mc
from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.decode import append_together
from megacontext.runtime.engine import NO_TOKENS, Engine
from megacontext.runtime.generation import AnswerStream
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session
from record import parser, record, row

WAYS = ("together", "one after another")
TOKENS_EACH = 8  # of every round of steps
ANSWER_TOKENS = 64
INTERVALS = (0, 32)
QUESTIONS = (
    "Who came down to the river?",
    "How is a socket closed?",
    "What did the Count say about the castle?",
    "Where does the ship lie?",
)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--base", nargs="+", default=["reference", "reference-plain"])
    arguments.add_argument("--sessions", type=int, nargs="+", default=[4, 16])
    arguments.add_argument("--budget", type=int, nargs="+", default=[512, 1024])
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--answer-rounds", type=int, default=3)
    given = arguments.parse_args()
    rows: list[dict[str, object]] = []
    for name in given.base:
        handle = BaseHandle(name)
        with tempfile.TemporaryDirectory() as folder:
            memory = make_history(Path(folder) / "m.mc", handle, 100_000)
            for budget in given.budget:
                for num_sessions in given.sessions:
                    rows.append(measure(memory, name, budget, num_sessions, given.rounds))
            for interval in INTERVALS:
                rows += measure_answers(
                    memory, name, max(given.budget), max(given.sessions), interval, given.answer_rounds
                )
            memory.close()
    record("sessions_together", rows, given.out)


def measure(memory: OpenedMemory, base: str, budget: int, num_sessions: int, num_rounds: int) -> dict[str, object]:
    """Steps: medians of both ways, alternately."""
    room = 2 * TOKENS_EACH * (num_rounds + 1)
    windows = []
    for number in range(num_sessions):
        engine = Engine(memory, memory.base, SessionConfig(budget_entries=budget + room, lens="recency"))
        engine.reserve(room + 7 * number, "what is decoded")  # windows of different lengths
        windows.append(engine.show(NO_TOKENS))
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(num_rounds + 1):
        for way in in_turn(number):
            token_ids = random.integers(0, 256, (TOKENS_EACH, num_sessions)).astype(np.uint32)
            began = time.perf_counter()
            for step in token_ids:
                if way == "together":
                    append_together(windows, step)
                else:
                    for window, token_id in zip(windows, step, strict=True):
                        window.append(np.array([token_id], dtype=np.uint32))
            seconds[way].append(time.perf_counter() - began)
    together, alone = (statistics.median(seconds[way][1:]) for way in WAYS)
    num_tokens = TOKENS_EACH * num_sessions
    return row(
        f"{base}: {num_sessions} sessions together / one after another, windows of {budget:,}",
        alone / together,
        "x",
        at_least=4.0 if num_sessions == 16 else None,
        tokens_per_second=num_tokens / together,
        alone_tokens_per_second=num_tokens / alone,
        dtype=memory.base.load().info.dtype,
        threads=torch.get_num_threads(),
        rounds=num_rounds,
    )


def in_turn(number: int) -> tuple[str, ...]:
    """Both ways, the other one first in every second round."""
    return WAYS[::-1] if number % 2 else WAYS


@dataclass(frozen=True)
class Took:
    """Of all answers of a round: seconds until each had its first token, and after that; entries run."""

    first_s: float
    rest_s: float
    num_run: int


def measure_answers(
    memory: OpenedMemory, base: str, budget: int, num_sessions: int, interval: int, num_rounds: int
) -> list[dict[str, object]]:
    """Whole answers: medians of both ways, alternately; the first round warms up."""
    ways = {way: _sessions(memory, budget, num_sessions, interval) for way in WAYS}
    took: dict[str, list[Took]] = {way: [] for way in WAYS}
    for number in range(num_rounds + 1):
        for way in in_turn(number):
            sessions = ways[way]
            streams = [
                session.generate(
                    QUESTIONS[(number + place) % len(QUESTIONS)],
                    max_new_tokens=ANSWER_TOKENS,
                    stop=(),
                    temperature=1.0,
                    seed=place,
                )
                for place, session in enumerate(sessions)
            ]
            before = sum(session.num_forwarded_entries for session in sessions)
            first_s, rest_s = _times(streams, together=way == "together")
            num_run = sum(session.num_forwarded_entries for session in sessions) - before
            took[way].append(Took(first_s, rest_s, num_run))
    for session in (session for sessions in ways.values() for session in sessions):
        session.close()
    what = f"{base}: {num_sessions} answers together / one after another, windows of {budget:,}, "
    what += f"refocus every {interval} tokens" if interval else "no refocus in the answer"
    return [
        _answer_row(f"{what}: {part}", took, part, num_sessions, dtype=memory.base.load().info.dtype)
        for part in ("whole", "first tokens", "tokens after the first")
    ]


def _sessions(memory: OpenedMemory, budget: int, num_sessions: int, interval: int) -> list[Session]:
    """Windows of different lengths."""
    return [
        memory.session(budget_entries=budget - 7 * number, refocus_interval=interval) for number in range(num_sessions)
    ]


def _times(streams: Sequence[AnswerStream], *, together: bool) -> tuple[float, float]:
    """Seconds until all have their first token, where one runs after the other summed over them; and the rest."""
    groups = [streams] if together else [[stream] for stream in streams]
    first_s = rest_s = 0.0
    for group in groups:
        began = started = time.perf_counter()
        waiting = set(range(len(group)))
        for number, event in mc.together(group) if together else ((0, event) for event in group[0]):
            if isinstance(event, mc.MegaContextError):
                raise event
            if isinstance(event, mc.TokenEvent) and waiting:
                waiting.discard(number)
                started = time.perf_counter()
        first_s += started - began
        rest_s += time.perf_counter() - started
    return first_s, rest_s


def _answer_row(
    what: str, took: dict[str, list[Took]], part: str, num_sessions: int, *, dtype: str
) -> dict[str, object]:
    seconds = {
        way: statistics.median(
            {"whole": each.first_s + each.rest_s, "first tokens": each.first_s}.get(part, each.rest_s)
            for each in rounds[1:]
        )
        for way, rounds in took.items()
    }
    together, alone = seconds["together"], seconds["one after another"]
    num_run = {way: statistics.mean(each.num_run for each in rounds[1:]) for way, rounds in took.items()}
    return row(
        what,
        alone / together,
        "x",
        together_s=together,
        alone_s=alone,
        **(
            {"entries_run": num_run["together"], "alone_entries_run": num_run["one after another"]}
            if part == "whole"
            else {}
        ),
        tokens_each=ANSWER_TOKENS,
        dtype=dtype,
        threads=torch.get_num_threads(),
        rounds=len(took["together"]) - 1,
    )


if __name__ == "__main__":
    main()
