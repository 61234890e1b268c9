"""Does a window that is patched again and again drift from one that is computed exactly?

A session over real text opens random blocks in every refocus (what it closes for them is up to the working context),
64 times in a row; another does the same with kv='exact'. After 1, 4, 16 and 64 refocuses both are asked for the nats of
the text that follows, and for facts: the question runs, then the block with the fact is opened, then the answer is
drawn.

Those blocks are opened last, so their rows are new. In windows of their own, six facts that are easily taken for each
other are opened at the first refocus and asked for 64 refocuses later: their rows are what patching left of them by
then. Differences are paired, standard errors those over histories.
python benchmarks/patch_drift.py --out benchmarks/results

A folder may have a name for its rows: `--base llama=MODEL` is the Llama that recipes/reference/README.md trains with
llama.toml. Rows of bases that are not measured stay in the results.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import torch

from attending_window import AttendingWindow
from histories import real_tokens
from megacontext.bases.registry import BaseHandle
from megacontext.errors import BudgetError
from megacontext.evaluation.haystack import Haystack, build_haystack
from megacontext.evaluation.hidden_facts import answer_value, draw_lookalikes
from megacontext.evaluation.intervals import Mean, paired_difference
from megacontext.evaluation.library import assemble_library
from megacontext.ports.base import question_ids
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.engine import NO_TOKENS, Engine
from megacontext.runtime.patching import Patching
from record import parser, record, row

REFOCUSES = (1, 4, 16, 64)
LAST = max(REFOCUSES)
UNBOUND = 1e9  # no refresh: what is measured is drift itself
BAREST = Patching(rerun_last=1, rerun_behind=0, num_probes=0, drift_bound=UNBOUND)


@dataclass(frozen=True)
class Arm:
    """A way to keep the window, and the one that it is compared with. is_aside: no question of the default, so that
    fewer histories do; by_attention: the rows that run again are those that looked most at what is replaced."""

    kv: str | Patching
    sink_tokens: int = 4
    exact: str = "exact"
    is_aside: bool = False
    by_attention: bool = False


ARMS = {
    "exact": Arm("exact"),
    "the last row alone again": Arm(BAREST),
    "as by default": Arm(Patching(drift_bound=UNBOUND)),
    "probes by attention": Arm(Patching(drift_bound=UNBOUND), by_attention=True),
    "32 probes": Arm(Patching(num_probes=32, drift_bound=UNBOUND), is_aside=True),
    "with the default's bound": Arm(Patching()),
    "exact without sinks": Arm("exact", sink_tokens=0, is_aside=True),
    "without sinks": Arm(Patching(drift_bound=UNBOUND), sink_tokens=0, exact="exact without sinks", is_aside=True),
}
DEFAULT = "as by default"
STALE_ARMS = {
    "exact": Arm("exact"),
    "the last row alone again": Arm(BAREST),
    "patched": Arm(Patching()),
    "patched, probes by attention": Arm(Patching(), by_attention=True),
}
CONTINUATION_TOKENS = 128
GROWN_TOKENS = 1_536
FACTS_EACH = 6  # in a window at once
ASKED_LAST = 2  # of them are asked for in windows that open a block after the question ran
ANSWER_TOKENS = 10


@dataclass
class Measured:
    """Of one arm after so many refocuses: nats of each continuation; shares of right answers and how often the window
    was computed anew, one for each history; drift as the window tells it; shares of facts' rows out of date."""

    nats: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    refreshes: list[int] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    stale: list[float] = field(default_factory=list)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], asks_dtype=True)
    arguments.add_argument("--base", nargs="+", default=["reference", "reference-plain"], metavar="[NAME=]BASE")
    arguments.add_argument("--budget", type=int, default=1024)
    arguments.add_argument("--opened", type=int, default=2, help="blocks that every refocus opens")
    arguments.add_argument("--trials", type=int, default=8)
    arguments.add_argument("--wide-budget", type=int, default=2048, help="a second window for facts opened long ago")
    arguments.add_argument("--wide-trials", type=int, default=4)
    arguments.add_argument("--aside-trials", type=int, default=3, help="for ways that are no question of the default")
    given = arguments.parse_args()
    rows: list[dict[str, object]] = []
    for name in given.base:
        label, _, place = name.rpartition("=")
        handle, base = BaseHandle(place, dtype=given.dtype), label or Path(place).name
        facts = draw_lookalikes(Random(3), given.trials * FACTS_EACH)
        library = assemble_library(handle.codec, num_tokens=60_000, seed=3)
        gister = "gistnet" if handle.info.gist_net else "extractive"
        with tempfile.TemporaryDirectory() as folder:
            haystack = build_haystack(Path(folder), handle, library, facts=facts, seed=3, gister=gister)
            with haystack.memory:
                stale_trials = {given.budget: given.trials, given.wide_budget: given.wide_trials}
                trials = Trials(handle, haystack, given.opened, stale_trials, given.aside_trials)
                for follows in grown(haystack, real_tokens(handle, trial_tokens(given.trials), seed=11), given.trials):
                    trials.run(follows, given.budget)
        made = {
            "base": base,
            "dtype": handle.load().info.dtype,
            "opened_each": given.opened,
            "threads": torch.get_num_threads(),
        }
        rows += [figure | made for figure in (*drift_rows(base, trials.drifting), *stale_rows(base, trials.long_open))]
    record("patch_drift", rows, given.out)


def trial_tokens(num_trials: int) -> int:
    return num_trials * (GROWN_TOKENS + CONTINUATION_TOKENS)


def grown(haystack: Haystack, stream: npt.NDArray[np.uint32], num_trials: int) -> Iterator[npt.NDArray[np.uint32]]:
    """Let the history grow for each trial; what would follow."""
    for part in np.array_split(stream, num_trials):
        haystack.memory.append(part[:GROWN_TOKENS])
        yield part[GROWN_TOKENS:][:CONTINUATION_TOKENS]


class Trials:
    """Histories, one after another, each longer than the one before. drifting: by arm and number of refocuses;
    long_open: by window and arm, of facts that were opened at the first refocus. stale_trials: how many of the
    histories each window gets for that; aside_trials: how many the arms aside get."""

    def __init__(
        self, handle: BaseHandle, haystack: Haystack, opened: int, stale_trials: dict[int, int], aside_trials: int
    ) -> None:
        self._haystack = haystack
        self._opened = opened
        self._stale_trials, self._aside_trials = stale_trials, aside_trials
        self._base = handle
        self._number = 0
        self.drifting: dict[tuple[str, int], Measured] = {}
        self.long_open: dict[tuple[int, str], Measured] = {}

    def run(self, follows: npt.NDArray[np.uint32], budget: int) -> None:
        facts = range(self._number * FACTS_EACH, (self._number + 1) * FACTS_EACH)
        for name, arm in ARMS.items():
            if arm.is_aside and self._number >= self._aside_trials:
                continue
            engine = self._engine(budget, arm.kv, arm.sink_tokens, by_attention=arm.by_attention)
            for number in self._refocused(engine, runs=arm.kv != "exact"):
                if number in REFOCUSES:
                    found = self.drifting.setdefault((name, number), Measured())
                    self._look(engine, found, follows, facts[:ASKED_LAST])
        for window_entries, num_trials in self._stale_trials.items():
            for name, arm in STALE_ARMS.items() if self._number < num_trials else ():
                engine = self._engine(window_entries, arm.kv, by_attention=arm.by_attention)
                found = self.long_open.setdefault((window_entries, name), Measured())
                self._ask_long_open(engine, found, facts)
        self._number += 1

    def _engine(self, budget: int, kv: str | Patching, sink_tokens: int = 4, *, by_attention: bool = False) -> Engine:
        memory = self._haystack.memory
        config = SessionConfig(budget_entries=budget, kv=kv, lens="recency", sink_tokens=sink_tokens)
        engine = Engine(memory, memory.base, config)
        if by_attention:
            engine.window = AttendingWindow.like(engine.new_window())
        return engine

    def _refocused(self, engine: Engine, *, runs: bool, keep: Sequence[int] = ()) -> Iterator[int]:
        """Refocus again and again; their numbers. ``runs``: show every window, not only those that are looked at;
        ``keep``: facts that are open from the first refocus on, which is followed by as many as otherwise."""
        random = np.random.default_rng(self._number)
        engine.reserve(CONTINUATION_TOKENS + 64, "what follows")
        if runs:
            engine.show(NO_TOKENS)
        for fact in keep:
            engine.working_context.pin(*self._haystack.spans[fact])
        num_blocks = (engine.memory.num_tokens - 600) // engine.memory.tree.block_tokens
        for number in range(0 if keep else 1, LAST + 1):
            for block in random.integers(0, num_blocks, self._opened).tolist():
                with suppress(BudgetError):  # six facts may leave no room for a far block, and then do so in every arm
                    engine.working_context.reveal(block * 32, block * 32 + 32)
            if runs:
                engine.show(NO_TOKENS)
            yield number

    def _look(self, engine: Engine, found: Measured, follows: npt.NDArray[np.uint32], facts: Sequence[int]) -> None:
        """Nats of what follows, and answers from blocks that are opened after the question ran."""
        window = engine.show(NO_TOKENS)
        found.nats.append(float(window.nll(follows).mean()))
        found.drifts.append(window.drift)
        found.refreshes.append(window.num_refreshes)
        right = []
        for number in facts:
            question = self._question(number)
            engine.show(question)
            engine.working_context.reveal(*self._haystack.spans[number])
            right.append(self._is_right(engine.show(question), number))
        found.right.append(statistics.mean(right))

    def _ask_long_open(self, engine: Engine, found: Measured, facts: Sequence[int]) -> None:
        """Answers from blocks that have been open for 64 refocuses."""
        for _ in self._refocused(engine, runs=engine.config.kv != "exact", keep=facts):
            pass
        window = engine.show(NO_TOKENS)
        found.drifts.append(window.drift)
        found.stale.append(self._share_out_of_date(window, facts))
        found.right.append(
            statistics.mean(self._is_right(engine.show(self._question(number)), number) for number in facts)
        )
        found.refreshes.append(window.num_refreshes)

    def _question(self, number: int) -> npt.NDArray[np.uint32]:
        fact, base = self._haystack.hidden[number].fact, self._base
        return question_ids(base.info, base.codec, fact.question)

    def _is_right(self, window: ModelWindow, number: int) -> bool:
        drawn: list[int] = []
        while len(drawn) < ANSWER_TOKENS:
            assert window.next_logits is not None
            drawn.append(int(window.next_logits.argmax()))
            window.append(np.array(drawn[-1:], dtype=np.uint32))
        said = self._base.codec.decode(np.array(drawn, dtype=np.uint32))
        return answer_value(said) == self._haystack.hidden[number].fact.value

    def _share_out_of_date(self, window: ModelWindow, facts: Sequence[int]) -> float:
        levels_W, starts_W = window.rows.keys[:, 0], window.rows.keys[:, 1]
        is_stale_W = window.state()[0]["is_stale"]
        spans = [self._haystack.spans[number] for number in facts]
        is_fact_W = np.any([(levels_W == 0) & (starts_W >= start) & (starts_W < stop) for start, stop in spans], axis=0)
        return float(is_stale_W[is_fact_W].mean())


def drift_rows(base: str, drifting: dict[tuple[str, int], Measured]) -> Iterator[dict[str, object]]:
    """What follows, and answers from blocks that were opened last: paired differences to exact."""
    for name, arm in ARMS.items():
        for number in REFOCUSES if arm.kv != "exact" else ():
            ours, exact = drifting[name, number], drifting[arm.exact, number]
            nats, right = paired(ours.nats, exact.nats), paired(ours.right, exact.right)
            is_judged = name == DEFAULT and number == LAST
            what = f"{base}, {name}, {number} refocuses"
            yield row(
                f"{what}: nats more than exact",
                nats.value,
                "nats",
                at_most=0.01 if is_judged else None,
                standard_error=nats.error,
                exact_nats=statistics.mean(exact.nats[: len(ours.nats)]),
                right=statistics.mean(ours.right),
                exact_right=statistics.mean(exact.right[: len(ours.right)]),
                right_difference_error=right.error,
                drift=statistics.mean(ours.drifts),
                most_drift=max(ours.drifts),
                refreshes=sum(ours.refreshes),
                trials=len(ours.nats),
            )
            if is_judged:
                yield judged(f"{what}: right answers less than exact, in standard errors", right)
    with_sinks, without = drifting["exact", LAST], drifting["exact without sinks", LAST]
    nats = paired(without.nats, with_sinks.nats)
    yield row(
        f"{base}, exact without sinks: nats more than exact with them",
        nats.value,
        "nats",
        standard_error=nats.error,
        trials=len(without.nats),
    )


def stale_rows(base: str, long_open: dict[tuple[int, str], Measured]) -> Iterator[dict[str, object]]:
    """Answers from blocks that have been open for long: paired differences to exact."""
    for (window_entries, name), ours in long_open.items():
        if name == "exact":
            continue
        exact = long_open[window_entries, "exact"]
        right = paired(ours.right, exact.right)
        what = f"{base}, window of {window_entries:,}, facts opened {LAST} refocuses ago, {name}"
        yield row(
            f"{what}: right answers more than exact",
            round(100 * right.value, 9),
            "points",
            standard_error=100 * right.error,
            right=statistics.mean(ours.right),
            exact_right=statistics.mean(exact.right),
            out_of_date=statistics.mean(ours.stale),
            drift=statistics.mean(ours.drifts),
            refreshes=sum(ours.refreshes),
            trials=len(ours.right),
            questions=len(ours.right) * FACTS_EACH,
        )
        if name == "patched":
            yield judged(f"{what}: right answers less than exact, in standard errors", right)


def paired(ours: list[float], exact: list[float]) -> Mean:
    """The mean difference, over those histories that both did."""
    return paired_difference(ours, exact[: len(ours)])


def judged(what: str, right: Mean) -> dict[str, object]:
    """The promise about answers; no difference at all has no error to be measured by."""
    return row(what, max(0.0, -right.value) / right.error if abs(right.value) > 1e-9 else 0.0, "errors", at_most=1.0)


if __name__ == "__main__":
    main()
