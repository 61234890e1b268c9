"""Sixteen sessions that step together against the same sixteen one after another: tokens a second.

Each has a window of its own over one memory of real text; windows differ in length. Then all decode. Rounds of both
ways alternate; windows grow alike. python benchmarks/sessions_together.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.decode import append_together
from megacontext.runtime.engine import NO_TOKENS, Engine
from megacontext.runtime.opened import OpenedMemory
from record import parser, record, row

TOKENS_EACH = 8  # of every round


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--base", nargs="+", default=["reference", "reference-plain"])
    arguments.add_argument("--sessions", type=int, nargs="+", default=[4, 16])
    arguments.add_argument("--budget", type=int, nargs="+", default=[512, 1024])
    arguments.add_argument("--rounds", type=int, default=9)
    given = arguments.parse_args()
    rows: list[dict[str, object]] = []
    for name in given.base:
        handle = BaseHandle(name)
        with tempfile.TemporaryDirectory() as folder:
            memory = make_history(Path(folder) / "m.mc", handle, 100_000)
            for budget in given.budget:
                for num_sessions in given.sessions:
                    rows.append(measure(memory, name, budget, num_sessions, given.rounds))
            memory.close()
    record("sessions_together", rows, given.out)


def measure(memory: OpenedMemory, base: str, budget: int, num_sessions: int, num_rounds: int) -> dict[str, object]:
    """Medians of both ways, alternately."""
    room = 2 * TOKENS_EACH * (num_rounds + 1)
    windows = []
    for number in range(num_sessions):
        engine = Engine(memory, memory.base, SessionConfig(budget_entries=budget + room, lens="recency"))
        engine.reserve(room + 7 * number, "what is decoded")  # windows of different lengths
        windows.append(engine.show(NO_TOKENS))
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"together": [], "one after another": []}
    for _ in range(num_rounds + 1):
        for way, took in seconds.items():
            token_ids = random.integers(0, 256, (TOKENS_EACH, num_sessions)).astype(np.uint32)
            began = time.perf_counter()
            for step in token_ids:
                if way == "together":
                    append_together(windows, step)
                else:
                    for window, token_id in zip(windows, step, strict=True):
                        window.append(np.array([token_id], dtype=np.uint32))
            took.append(time.perf_counter() - began)
    together, alone = (statistics.median(took[1:]) for took in seconds.values())
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


if __name__ == "__main__":
    main()
