"""The bookkeeping of one refocus, lens scores given, and how near greedy comes to the best cut.

A working context of 8,192 entries over 4 M tokens is refocused again and again with scores of three kinds: recency,
random per entry, and needles (a few valuable blocks anywhere on a recency floor). Timed is what turns scores into the
applied cut: checking them, allocating, checking and applying the target. Greedy's utility is compared with the best
cut's for the same scores; the worst refocus counts.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np

from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.allocators.value import cut_value
from megacontext.focus.lenses.recency import recency_utility
from megacontext.focus.refocusing import refocus
from megacontext.focus.scores import UtilityField
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import AllocatorConfig, CutView, FocusScores, Nomination
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry
from record import parser, record, row

ScoreField = Callable[[CutView, np.random.Generator], FocusScores]
NUM_NEEDLES = 12
NEEDLE_TOKENS = 40


def recency(cut: CutView, random: np.random.Generator) -> FocusScores:
    """The recency lens, its reach changing so that there is something to edit."""
    return FocusScores(utility=recency_utility(cut, float(random.uniform(200, 2000))))


def random_entries(cut: CutView, random: np.random.Generator) -> FocusScores:
    """Heavy-tailed utility of every entry, whatever its level."""
    return FocusScores(utility=random.exponential(size=len(cut.levels)) ** 3)


def needles(cut: CutView, random: np.random.Generator) -> FocusScores:
    """A few spans anywhere in the history, worth from nearly nothing to everything, on a recency floor."""
    starts = random.integers(0, int(cut.stops[-1]) - NEEDLE_TOKENS, NUM_NEEDLES).tolist()
    worths = (random.random(NUM_NEEDLES) ** 4).tolist()
    return FocusScores(
        utility=0.25 * recency_utility(cut),
        nominations=[
            Nomination(start=start, stop=start + NEEDLE_TOKENS, utility=worth)
            for start, worth in zip(starts, worths, strict=True)
        ],
    )


FIELDS: dict[str, ScoreField] = {"recency": recency, "random": random_entries, "needles": needles}


@dataclasses.dataclass(frozen=True)
class Setting:
    num_tokens: int
    budget_entries: int
    gist_width: int = 1
    block_tokens: int = 32

    def open(self) -> WorkingContext:
        config = WorkingContextConfig(budget_entries=self.budget_entries)
        tree = TreeGeometry(self.block_tokens)
        return WorkingContext(tree, gist_width=self.gist_width, num_tokens=self.num_tokens, config=config)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of each refocus: milliseconds by the clock and on the processor, which differ where the machine is shared."""

    clock_ms: list[float]
    cpu_ms: list[float]
    num_edits: int


def measure(setting: Setting, make_scores: ScoreField, repeats: int) -> Timing:
    """The first refocus, which imports and warms up, is not counted."""
    random = np.random.default_rng(0)
    wc, allocator = setting.open(), make_allocator("greedy")
    timing = Timing([], [], 0)
    for _ in range(repeats + 1):
        scores = make_scores(wc.view(), random)
        began, cpu_began = time.perf_counter(), time.process_time()
        edits = refocus(wc, scores, allocator)
        cpu_ms, clock_ms = 1e3 * (time.process_time() - cpu_began), 1e3 * (time.perf_counter() - began)
        timing = Timing([*timing.clock_ms, clock_ms], [*timing.cpu_ms, cpu_ms], timing.num_edits + edits.num_edits)
    return Timing(timing.clock_ms[1:], timing.cpu_ms[1:], timing.num_edits)


def worst_share_of_optimum(setting: Setting, make_scores: ScoreField, repeats: int) -> float:
    """The smallest ratio of greedy's value to the best cut's over a run of refocuses."""
    random = np.random.default_rng(1)
    wc, greedy, optimal = setting.open(), make_allocator("greedy"), make_allocator("optimal")
    config = AllocatorConfig(budget_entries=setting.budget_entries)
    worst = 1.0
    for _ in range(repeats):
        view = wc.view()
        scores = make_scores(view, random)
        field = UtilityField(view, scores)
        near, best = (Cut(*allocator.allocate(view, scores, config)) for allocator in (greedy, optimal))
        worst = min(worst, cut_value(near, field, config.gist_value) / cut_value(best, field, config.gist_value))
        wc.apply(near, scores=scores)
    return worst


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--tokens", type=int, default=4_000_000)
    arguments.add_argument("--entries", type=int, default=8192)
    arguments.add_argument("--repeats", type=int, default=60)
    options = arguments.parse_args()

    full = Setting(options.tokens, options.entries)
    rows = []
    for name, make_scores in FIELDS.items():
        timing = measure(full, make_scores, options.repeats)
        rows.append(
            row(
                f"refocus bookkeeping, {options.entries:,} entries over {options.tokens:,} tokens, {name} scores",
                statistics.median(timing.clock_ms),
                "ms",
                at_most=3.0,
                median_cpu_ms=statistics.median(timing.cpu_ms),
                p90_cpu_ms=sorted(timing.cpu_ms)[options.repeats * 9 // 10],
                edits_per_refocus=timing.num_edits / (options.repeats + 1),
                repeats=options.repeats,
            )
        )
    settings = {
        f"{options.entries:,} entries": full,
        "1,024 entries": Setting(1_000_000, 1024),
        "512 entries, gists of 2": Setting(200_000, 512, gist_width=2),
        "512 entries, K = 8": Setting(200_000, 512, block_tokens=8),
    }
    for where, setting in settings.items():
        shares = {name: worst_share_of_optimum(setting, field, options.repeats // 3) for name, field in FIELDS.items()}
        rows.append(
            row(
                f"greedy / optimal utility, worst refocus, {where}",
                min(shares.values()),
                "share",
                at_least=0.98,
                **shares,
            )
        )
    record("refocus_bookkeeping", rows, options.out)


if __name__ == "__main__":
    main()
