"""What is won, and what lost, when an allocator weighs that an early edit costs more?

In exact mode a refocus runs the window from its earliest edit on. ``Hysteresis(edit_cost=...)`` is the utility that one
entry less is worth. A text goes on over a memory of a hundred thousand tokens, 32 tokens at a time with a refocus after
each, as an answer does; counted are the entries that a refocus runs, and the nats of the tokens that follow it, paired
with those at no cost. python benchmarks/edit_cost.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histories import make_history, real_tokens
from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.intervals import paired_difference
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.engine import Engine, Query
from megacontext.runtime.focusing import Hysteresis
from megacontext.runtime.opened import OpenedMemory
from record import parser, record, row

COSTS = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
HISTORY_TOKENS = 100_000
GROWN_TOKENS = 1_536  # of the text that goes on, before it is watched
STEP_TOKENS = 32
NUM_STEPS = 6


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--base", default="reference")
    arguments.add_argument("--budget", type=int, default=1024)
    arguments.add_argument("--trials", type=int, default=24)
    given = arguments.parse_args()
    handle = BaseHandle(given.base)
    each = GROWN_TOKENS + STEP_TOKENS * (NUM_STEPS + 1)
    stream = real_tokens(handle, given.trials * each, seed=11)
    found: dict[float, list[tuple[float, int]]] = {cost: [] for cost in COSTS}
    with tempfile.TemporaryDirectory() as folder:
        gister = "gistnet" if handle.info.gist_net else "extractive"
        with make_history(Path(folder) / "memory", handle, HISTORY_TOKENS, gister=gister) as memory:
            for part in stream.reshape(given.trials, each):
                memory.append(part[:GROWN_TOKENS])
                for cost in COSTS:
                    found[cost] += goes_on(memory, part[GROWN_TOKENS:], cost, given.budget)
    record("edit_cost", [figure(cost, found) for cost in COSTS], given.out)


def goes_on(
    memory: OpenedMemory, follows: npt.NDArray[np.uint32], edit_cost: float, budget: int
) -> list[tuple[float, int]]:
    """Nats a token after each refocus, and the entries that it ran."""
    engine = Engine(memory, memory.base, SessionConfig(budget_entries=budget, kv="exact"))
    engine.reserve(len(follows), "what follows")
    hysteresis = Hysteresis(max_edits=16, cooldown=1, swap_margin=0.1, edit_cost=edit_cost)
    scratch = follows[:STEP_TOKENS]
    engine.refocus(query(memory, scratch))
    engine.show(scratch)
    steps = []
    for stop in range(2 * STEP_TOKENS, len(follows) + 1, STEP_TOKENS):
        coming, before = follows[stop - STEP_TOKENS : stop], engine.num_forwarded
        window = engine.show(scratch)
        num_run = engine.num_forwarded - before
        steps.append((float(window.nll(coming).mean()), num_run))
        window.append(coming)
        scratch = follows[:stop]
        engine.refocus(query(memory, scratch), hysteresis=hysteresis, by_words_first=False)
    return steps[1:]  # the first window is that of the question


def query(memory: OpenedMemory, scratch: npt.NDArray[np.uint32]) -> Query:
    return Query(
        text=memory.codec.decode(scratch)[-400:],
        token_ids=scratch[-STEP_TOKENS:],
        scratch=scratch,
        num_queries=STEP_TOKENS,
    )


def figure(cost: float, found: dict[float, list[tuple[float, int]]]) -> dict[str, object]:
    nats, num_run = zip(*found[cost], strict=True)
    free, _ = zip(*found[0.0], strict=True)
    difference = paired_difference(nats, free)
    return row(
        f"entries that a refocus runs, edit_cost {cost:g}",
        statistics.fmean(num_run),
        "entries",
        nats=statistics.fmean(nats),
        nats_more_than_at_no_cost=difference.value,
        standard_error=difference.error,
        refocuses=len(nats),
    )


if __name__ == "__main__":
    main()
