"""Does a window that is patched again and again drift from one that is computed exactly?

A session over real text opens random blocks in every refocus (what it closes for them is up to the working context),
64 times in a row; another does the same with kv='exact'. After 1, 4, 16 and 64 refocuses both are asked for the nats of
the text that follows, and for facts: the question runs, then the block with the fact is opened, then the answer is
drawn. Differences are paired. python benchmarks/patch_drift.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histories import real_tokens
from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.haystack import Haystack, build_haystack
from megacontext.evaluation.hidden_facts import answer_value
from megacontext.evaluation.intervals import paired_difference
from megacontext.evaluation.library import assemble_library
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.engine import NO_TOKENS, Engine
from megacontext.runtime.patching import Patching
from record import parser, record, row

REFOCUSES = (1, 4, 16, 64)
UNBOUND = 1e9  # no refresh: what is measured is drift itself
VARIANTS: dict[str, Patching] = {
    "the last row alone again": Patching(rerun_last=1, rerun_behind=0, num_probes=0, drift_bound=UNBOUND),
    "as by default": Patching(drift_bound=UNBOUND),
    "32 probes": Patching(num_probes=32, drift_bound=UNBOUND),
}
KV_MODES: dict[str, str | Patching] = {"exact": "exact", **VARIANTS}
DEFAULT = "as by default"
CONTINUATION_TOKENS = 128
GROWN_TOKENS = 1_536
FACTS_EACH = 2
ANSWER_TOKENS = 10


@dataclass
class Measured:
    """Of one variant after so many refocuses: nats of each continuation, answers, drift as the window tells it."""

    nats: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    num_forwarded: int = 0


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--base", nargs="+", default=["reference", "reference-plain"])
    arguments.add_argument("--budget", type=int, default=1024)
    arguments.add_argument("--opened", type=int, default=2, help="blocks that every refocus opens")
    arguments.add_argument("--trials", type=int, default=24)
    given = arguments.parse_args()
    rows = []
    for name in given.base:
        measured = measure(BaseHandle(name), given.budget, given.opened, given.trials)
        rows += rows_of(Path(name).name, measured, given.opened)
    record("patch_drift", rows, given.out)


def measure(handle: BaseHandle, budget: int, opened: int, num_trials: int) -> dict[tuple[str, int], Measured]:
    """By variant and number of refocuses; every trial has a history of its own, longer than the one before."""
    library = assemble_library(handle.codec, num_tokens=60_000, seed=3)
    stream = real_tokens(handle, num_trials * (GROWN_TOKENS + CONTINUATION_TOKENS), seed=11)
    gister = "gistnet" if handle.info.gist_net else "extractive"
    measured: dict[tuple[str, int], Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        haystack = build_haystack(
            Path(folder), handle, library, num_facts=num_trials * FACTS_EACH, seed=3, gister=gister
        )
        with haystack.memory as memory:
            for trial, part in enumerate(np.array_split(stream, num_trials)):
                memory.append(part[:GROWN_TOKENS])
                follows = part[GROWN_TOKENS:][:CONTINUATION_TOKENS]
                for name, kv in KV_MODES.items():
                    engine = Engine(memory, memory.base, SessionConfig(budget_entries=budget, kv=kv, lens="recency"))
                    for number in refocused(engine, opened, seed=trial, runs=kv != "exact"):
                        found = measured.setdefault((name, number), Measured())
                        look(engine, found, follows, haystack, trial)
    return measured


def refocused(engine: Engine, opened: int, *, seed: int, runs: bool) -> Iterator[int]:
    """Refocus again and again; yields at REFOCUSES. ``runs``: show every window, not only those that are looked at."""
    random = np.random.default_rng(seed)
    engine.reserve(CONTINUATION_TOKENS + 64, "what follows")
    engine.show(NO_TOKENS)
    num_blocks = (engine.memory.num_tokens - 600) // engine.memory.tree.block_tokens
    for number in range(1, max(REFOCUSES) + 1):
        for block in random.integers(0, num_blocks, opened).tolist():
            engine.working_context.reveal(block * 32, block * 32 + 32)
        if runs or number in REFOCUSES:
            engine.show(NO_TOKENS)
        if number in REFOCUSES:
            yield number


def look(engine: Engine, found: Measured, follows: npt.NDArray[np.uint32], haystack: Haystack, trial: int) -> None:
    """Nats of what follows, and answers from blocks that are opened after the question ran."""
    window = engine.show(NO_TOKENS)
    found.nats.append(float(window.nll(follows).mean()))
    found.drifts.append(window.drift)
    info, codec = engine.base.info, engine.base.codec
    for number in range(trial * FACTS_EACH, (trial + 1) * FACTS_EACH):
        fact = haystack.hidden[number].fact
        question = codec.encode(info.question_template.format(question=fact.question)).token_ids
        engine.show(question)
        engine.working_context.reveal(*haystack.spans[number])
        window = engine.show(question)
        drawn: list[int] = []
        while len(drawn) < ANSWER_TOKENS:
            assert window.next_logits is not None
            drawn.append(int(window.next_logits.argmax()))
            window.append(np.array(drawn[-1:], dtype=np.uint32))
        found.answers.append(float(answer_value(codec.decode(np.array(drawn, dtype=np.uint32))) == fact.value))
    found.num_forwarded = engine.num_forwarded


def rows_of(base: str, measured: dict[tuple[str, int], Measured], opened: int) -> list[dict[str, object]]:
    """Paired differences to exact, with standard errors over trials."""
    rows = []
    for variant in VARIANTS:
        for number in REFOCUSES:
            ours, exact = measured[variant, number], measured["exact", number]
            nats = paired_difference(ours.nats, exact.nats)
            answers = paired_difference(ours.answers, exact.answers)
            is_judged = variant == DEFAULT and number == max(REFOCUSES)
            rows.append(
                row(
                    f"{base}, {variant}, {number} refocuses: nats more than exact",
                    nats.value,
                    "nats",
                    at_most=0.01 if is_judged else None,
                    standard_error=nats.error,
                    exact_nats=statistics.mean(exact.nats),
                    right=statistics.mean(ours.answers),
                    exact_right=statistics.mean(exact.answers),
                    right_difference_error=answers.error,
                    drift=statistics.mean(ours.drifts),
                    trials=len(ours.nats),
                    opened_each=opened,
                )
            )
            if is_judged:
                rows.append(
                    row(
                        f"{base}, {variant}, {number} refocuses: right answers less than exact, in standard errors",
                        max(0.0, -answers.value) / answers.error if answers.value else 0.0,
                        "errors",
                        at_most=1.0,
                    )
                )
    return rows


if __name__ == "__main__":
    main()
