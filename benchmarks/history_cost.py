"""Does a longer history make anything slower? Generation, refocus and session start at 4 M tokens against 10 k.

The same window, the same prompt, the same process; rounds alternate between the two histories, so that whatever else
the machine does hits both alike. python benchmarks/history_cost.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.cost import decode_cost
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session
from megacontext.units import format_count
from record import parser, record, row

QUESTIONS = ("What did the Count say about the castle?", "How is a socket closed?", "Who came down to the river?")


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, nargs=2, default=(10_000, 4_000_000), metavar=("SHORT", "LONG"))
    arguments.add_argument("--budget", type=int, default=1024)
    arguments.add_argument("--rounds", type=int, default=12)
    given = arguments.parse_args()
    handle = BaseHandle("reference")
    with tempfile.TemporaryDirectory() as folder:
        memories = [make_history(Path(folder) / f"{length}.mc", handle, length) for length in given.tokens]
        rows = measure(memories, budget_entries=given.budget, num_rounds=given.rounds)
        for memory in memories:
            memory.close()
    record("history_cost", rows, given.out)


def measure(memories: Sequence[OpenedMemory], *, budget_entries: int, num_rounds: int) -> list[dict[str, object]]:
    """Medians over rounds, one round of each kind on each memory in turn."""
    sessions = [memory.session(budget_entries=budget_entries) for memory in memories]
    for session, memory in zip(sessions, memories, strict=True):
        generate_ms(session, memory)  # the model is loaded and warm
    kinds: dict[str, Callable[[int], float]] = {
        "generate, per token": lambda n: generate_ms(sessions[n], memories[n]),
        "refocus on a question": lambda n: refocus_ms(sessions[n]),
        "session start": lambda n: start_ms(memories[n], budget_entries),
    }
    rows = []
    for name, measured in kinds.items():
        samples: list[list[float]] = [[], []]
        for _ in range(num_rounds):
            for number in (0, 1):
                samples[number].append(measured(number))
        short, long = map(statistics.median, samples)
        lengths = [format_count(memory.num_tokens) for memory in memories]
        rows.append(
            row(
                f"{name}: {lengths[1]} of history / {lengths[0]}",
                long / short,
                "x",
                at_most=1.05 if name.startswith("generate") else None,
                short_ms=short,
                long_ms=long,
                rounds=num_rounds,
            )
        )
    return rows


def generate_ms(session: Session, memory: OpenedMemory) -> float:
    """Median time of one generated token."""
    return decode_cost(session, num_tokens=memory.num_tokens, prompt="\n", num_generated=32).per_token_ms


def refocus_ms(session: Session) -> float:
    """Lens (search, and attention over the window) and allocator, for a question after another."""
    return statistics.median(session.refocus(question).latency_ms for question in QUESTIONS)


def start_ms(memory: OpenedMemory, budget_entries: int) -> float:
    """From nothing to a working context; the first window is another refocus."""
    began = time.perf_counter()
    memory.session(budget_entries=budget_entries).close()
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
