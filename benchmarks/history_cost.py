"""Does a longer history make anything slower? Generation, refocus, session start and the first window of a session, up
to 100 M tokens against 10 k; and what these run, counted.

The same window, the same prompt, the same process; rounds alternate between the histories, so that whatever else the
machine does hits all alike. A hundred million tokens are a million of books and code again and again, in other orders,
through the same append as all others; they take 2.5 GB of disk for the time of the run, and minutes to be written.
python benchmarks/history_cost.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.cost import DecodeCost, decode_cost
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session
from megacontext.units import GIB, format_count
from record import parser, record, row

MOST_HITS = 16  # that a lens reads
BYTES_PER_TOKEN = 30  # on disk at most, at 256 values a gist
REFOCUS_INTERVAL = 32  # tokens, as by default
DECODE_STEP = "decode step between refocuses"
QUESTIONS = ("What did the Count say about the castle?", "How is a socket closed?", "Who came down to the river?")
COUNTED_QUESTIONS = (
    *QUESTIONS,
    "Why did the captain leave the ship?",
    "What is raised when a file is missing?",
    "Where did Elizabeth walk in the morning?",
    "How are arguments parsed?",
    "What was found in the chest on the island?",
    "Which encoding does the reader assume?",
    "What did Mr. Darcy write in his letter?",
    "When is the lock released?",
    "How did the whale die?",
)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000, 100_000_000])
    arguments.add_argument("--budget", type=int, default=1024)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--folder", type=Path, help="where the histories are made (default: temporary files)")
    given = arguments.parse_args()
    handle = BaseHandle("reference")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        refuse_small_disk(arguments, Path(name), sum(given.tokens))
        memories, made_s = [], []
        for length in given.tokens:
            began = time.perf_counter()
            memories.append(make_history(Path(name) / f"{length}.mc", handle, length))
            made_s.append(time.perf_counter() - began)
        rows = measure(memories, budget_entries=given.budget, num_rounds=given.rounds)
        rows += [figure for memory in memories for figure in counted_rows(memory, given.budget)]
        rows += [made_row(memory, seconds) for memory, seconds in zip(memories[1:], made_s[1:], strict=True)]
        for memory in memories:
            memory.close()
    record("history_cost", rows, given.out)


def refuse_small_disk(arguments: argparse.ArgumentParser, folder: Path, num_tokens: int) -> None:
    needed, free = BYTES_PER_TOKEN * num_tokens, shutil.disk_usage(folder).free
    if free < needed:
        arguments.error(
            f"{folder} has {free / GIB:.1f} GiB free, {num_tokens:,} tokens need {needed / GIB:.1f}: "
            "give another --folder, or fewer --tokens"
        )


def measure(memories: Sequence[OpenedMemory], *, budget_entries: int, num_rounds: int) -> list[dict[str, object]]:
    """Medians over rounds, one round of each kind on each memory in turn; every length against the first."""
    sessions = [memory.session(budget_entries=budget_entries, refocus_interval=REFOCUS_INTERVAL) for memory in memories]
    for session, memory in zip(sessions, memories, strict=True):
        generated(session, memory)  # the model is loaded and warm
    kinds: dict[str, Callable[[int], float]] = {
        DECODE_STEP: lambda n: generated(sessions[n], memories[n]).per_token_ms,
        "generate, refocuses included": lambda n: generated(sessions[n], memories[n]).with_refocus_ms,
        "refocus on a question": lambda n: refocus_ms(sessions[n]),
        "session start": lambda n: start_ms(memories[n], budget_entries),
        "first window of a cold session": lambda n: first_window(memories[n], budget_entries)[0],
    }
    lengths = [format_count(memory.num_tokens) for memory in memories]
    rows = []
    for name, measured in kinds.items():
        samples: list[list[float]] = [[] for _ in memories]
        for _ in range(num_rounds):
            for number, kept in enumerate(samples):
                kept.append(measured(number))
        short, *longer = map(statistics.median, samples)
        rows += [
            row(
                f"{name}: {length} of history / {lengths[0]}",
                long / short,
                "x",
                at_most=1.05 if name == DECODE_STEP else None,
                short_ms=short,
                long_ms=long,
                rounds=num_rounds,
            )
            for length, long in zip(lengths[1:], longer, strict=True)
        ]
    return rows


def counted_rows(memory: OpenedMemory, budget_entries: int) -> Iterator[dict[str, object]]:
    """Entries that the model runs: for the first window of a session, and for a question after others."""
    length = format_count(memory.num_tokens)
    _, num_run = first_window(memory, budget_entries)
    _, with_refocus = first_window(memory, budget_entries, refocuses=True)
    yield row(
        f"entries that the first window of a cold session runs, {length} of history",
        num_run,
        "entries",
        at_most=budget_entries,
        after_a_refocus=with_refocus,
    )
    counts = question_counts(memory, budget_entries)
    yield row(
        f"entries that a question runs, {length} of history",
        statistics.mean(count.num_run for count in counts),
        "entries",
        most=max(count.num_run for count in counts),
        ran_nothing=sum(count.num_run == 0 for count in counts),
        tokens_opened=statistics.mean(count.num_tokens_opened for count in counts),
        gists_opened=statistics.mean(count.num_gists_opened for count in counts),
        search_hits=statistics.mean(count.num_hits for count in counts),
        questions=len(counts),
    )


@dataclass(frozen=True)
class QuestionCount:
    """Of one refocus: entries run; rows that its cut has and the last one had not, by kind; passages found."""

    num_run: int
    num_tokens_opened: int
    num_gists_opened: int
    num_hits: int


def question_counts(memory: OpenedMemory, budget_entries: int) -> list[QuestionCount]:
    """Of every question, each asked after the others; the first round is not counted."""
    with memory.session(budget_entries=budget_entries) as session:
        found = []
        for question in COUNTED_QUESTIONS * 2:
            before, shown = session.num_forwarded_entries, cut_rows(session)
            session.refocus(question)
            opened = cut_rows(session) - shown
            found.append(
                QuestionCount(
                    num_run=session.num_forwarded_entries - before,
                    num_tokens_opened=sum(stop - start for level, start, stop in opened if not level),
                    num_gists_opened=sum(level > 0 for level, _, _ in opened),
                    num_hits=len(memory.search_hits(question, limit=MOST_HITS)),
                )
            )
    return found[len(COUNTED_QUESTIONS) :]


def cut_rows(session: Session) -> set[tuple[int, int, int]]:
    """Level, start and stop of each entry."""
    wc = session.working_context
    return set(zip(wc.levels.tolist(), wc.starts.tolist(), wc.stops.tolist(), strict=True))


def made_row(memory: OpenedMemory, seconds: float) -> dict[str, object]:
    return row(
        f"append of {format_count(memory.num_tokens)}",
        memory.num_tokens / seconds,
        "tokens/s",
        s=seconds,
        gib_on_disk=memory.inspect().num_bytes / GIB,
    )


def generated(session: Session, memory: OpenedMemory) -> DecodeCost:
    """Milliseconds of as many tokens as lie between two refocuses, so that one is among them."""
    return decode_cost(session, num_tokens=memory.num_tokens, prompt="\n", num_generated=REFOCUS_INTERVAL)


def refocus_ms(session: Session) -> float:
    """Lens (search, and attention over the window) and allocator, for a question after another."""
    return statistics.median(session.refocus(question).latency_ms for question in QUESTIONS)


def first_window(memory: OpenedMemory, budget_entries: int, *, refocuses: bool = False) -> tuple[float, int]:
    """Milliseconds from nothing to the next token's logits behind a whole window, and the entries that ran for it.
    ``refocuses``: on the end of the history, first; the lens looks at a window, and what it moves runs as well."""
    began = time.perf_counter()
    with memory.session(budget_entries=budget_entries) as session:
        if refocuses:
            session.refocus()
        session.nll([0])
        return 1e3 * (time.perf_counter() - began), session.num_forwarded_entries


def start_ms(memory: OpenedMemory, budget_entries: int) -> float:
    """From nothing to a working context, without a window."""
    began = time.perf_counter()
    memory.session(budget_entries=budget_entries).close()
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
