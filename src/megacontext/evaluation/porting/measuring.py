"""What gists are worth to a base that was never taught any: the likelihood of real text after a window that shows its
far past as gists, against the last tokens alone and against all of them, for blocks, widths, positions and sinks.

The product's own memories and sessions are measured, with the lens that keeps the latest text in detail. Text, windows
and trials are the same for all, so that differences are paired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megacontext.evaluation.library import shipped_books
from megacontext.evaluation.methods.focused import recent_room
from megacontext.evaluation.methods.plain import FullContext, Recency
from megacontext.evaluation.porting.room import has_room
from megacontext.gisters.gistnet import LEARNED_GISTER, untaught_shape
from megacontext.gisters.registry import make_gister
from megacontext.ports.base import Base, BaseInfo
from megacontext.runtime import assembly
from megacontext.runtime.base_source import LoadedBase
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.placement import RowNumbering
from megacontext.runtime.session import Session

__all__ = [
    "Measurement",
    "Norms",
    "Plan",
    "Shape",
    "Trial",
    "draw_trials",
    "measure_norms",
    "measure_shapes",
]

TokenIds = npt.NDArray[np.uint32]

MOST_TARGET = 64  # tokens that are scored, no more than a quarter of the window
BLOCKS, WIDTHS = (16, 32, 64), (1, 2, 4)
QUICK_BLOCK = 32
WINDOW_ENTRIES, QUICK_WINDOW = 512, 256
HISTORY_WINDOWS = 4  # how many windows long the history is
MOST_TRIALS, LEAST_TRIALS = 24, 4
# How long the measurement may take, by the speed at which the base reads.
MOST_SECONDS, QUICK_SECONDS = 900.0, 60.0
OVERHEAD_SECONDS = 0.3  # of a memory and a session, however fast the base is
POSITIONS: tuple[RowNumbering, ...] = ("window", "timeline", "global")
SINKS = (4, 0)


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Mean and standard deviation of the norms of vectors that the base reads: tokens, and gists of 32 of them."""

    name: str
    mean: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One way to show the past."""

    gister: str
    block_tokens: int = 32
    gist_width: int = 1
    positions: RowNumbering = "window"
    sink_tokens: int = 4


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A stretch of a book, and what comes next in it."""

    history: TokenIds
    target: TokenIds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: no more than fits into the time. seconds: how long that will take, about."""

    num_trials: int
    window_entries: int
    history_tokens: int
    target_tokens: int
    shapes: tuple[Shape, ...]
    seconds: float

    @classmethod
    def of(cls, info: BaseInfo, *, tokens_per_second: float, is_quick: bool) -> Plan:
        """A plan for a base that reads so fast."""
        window = min(QUICK_WINDOW if is_quick else WINDOW_ENTRIES, info.max_positions // 2)
        target = min(MOST_TARGET, window // 4)
        history = min(HISTORY_WINDOWS * window, info.max_positions - target)
        gisters = [*([LEARNED_GISTER] if info.gist_net else []), "extractive", "mean"]
        fits = partial(
            has_room,
            window,
            reserved_entries=target + (info.bos_token_id is not None),
            history_tokens=history,
            sink_tokens=Shape.sink_tokens,
        )
        sizes = [
            (block, width)
            for block in BLOCKS
            for width in (WIDTHS[:2] if is_quick else WIDTHS)
            if fits(block_tokens=block, gist_width=width)
        ]
        if is_quick:
            sizes = [size for size in sizes if size[0] == QUICK_BLOCK] or sizes[:1]
        shapes = tuple(
            Shape(gister=gister, block_tokens=block, gist_width=width, positions=info.positions)
            for gister in gisters
            for block, width in sizes
            if gister != LEARNED_GISTER or not untaught_shape(info, block_tokens=block, gist_width=width)
        )
        num_windows = len(shapes) + len(POSITIONS) + len(SINKS) + 1
        num_scored = (
            sum(shape.gister == "extractive" for shape in shapes) + 2
        )  # the whole history runs through the base
        per_trial = (num_windows * window + num_scored * history) / tokens_per_second + num_windows * OVERHEAD_SECONDS
        limit = QUICK_SECONDS if is_quick else MOST_SECONDS
        num_trials = max(LEAST_TRIALS, min(MOST_TRIALS, int(limit / per_trial)))
        return cls(
            num_trials=num_trials,
            window_entries=window,
            history_tokens=history,
            target_tokens=target,
            shapes=shapes,
            seconds=num_trials * per_trial,
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Nats per token of each trial [num_trials]: of the last tokens alone, of full context (empty where it does not
    fit) and of each shape."""

    recency: tuple[float, ...]
    full: tuple[float, ...]
    shapes: dict[Shape, tuple[float, ...]]


def draw_trials(base: Base, plan: Plan) -> list[Trial]:
    """Stretches of the shipped novels, one book after another, none overlapping another."""
    length = plan.history_tokens + plan.target_tokens
    books = shipped_books()
    trials: list[Trial] = []
    for number in range(plan.num_trials):
        text = books[number % len(books)].text
        chars = 12 * length  # more than any tokenizer needs for so many tokens
        places = max(1, (len(text) - chars) // (-(-plan.num_trials // len(books))))
        start = min((number // len(books)) * places, max(0, len(text) - chars))
        ids = base.codec.encode(text[start : start + chars]).token_ids[:length]
        trials.append(Trial(history=ids[: plan.history_tokens], target=ids[plan.history_tokens :]))
    return trials


def measure_norms(base: Base, text: str) -> list[Norms]:
    """How long gists are against tokens."""
    ids = base.codec.encode(text).token_ids
    ids = ids[: len(ids) // 32 * 32]
    found = {"tokens": base.embed(ids).float().norm(dim=-1).cpu().numpy()}
    for name in [*([LEARNED_GISTER] if base.info.gist_net else []), "extractive", "mean"]:
        gister = make_gister(name, LoadedBase(base), block_tokens=32, gist_width=1)
        vectors = gister.from_tokens(ids, start=0, num_context=0).vectors
        found[f"{name} gists"] = np.linalg.norm(vectors.astype(np.float32), axis=-1).reshape(-1)
    return [Norms(name=name, mean=float(norms.mean()), spread=float(norms.std())) for name, norms in found.items()]


def measure_shapes(base: Base, plan: Plan, *, on_step: Callable[[int, int], None]) -> Measurement:
    """Every shape of the plan, then positions and sinks of the best of them. on_step: how many trials are done of how
    many."""
    trials = draw_trials(base, plan)
    total = 2 * len(trials)
    recency, full = [], []
    nats: dict[Shape, list[float]] = {shape: [] for shape in plan.shapes}
    for number, trial in enumerate(trials):
        on_step(number, total)
        recency.append(_plain(Recency, base, trial, plan))
        if plan.history_tokens + plan.target_tokens <= base.info.max_positions:
            full.append(_plain(FullContext, base, trial, plan))
        for shape, value in _of_shapes(base, trial, plan, plan.shapes):
            nats[shape].append(value)
    best = min(nats, key=lambda shape: float(np.mean(nats[shape])))
    more = [replace(best, positions=positions) for positions in POSITIONS if positions != best.positions]
    more += [replace(best, sink_tokens=sinks) for sinks in SINKS if sinks != best.sink_tokens]
    more = [shape for shape in more if shape not in nats]
    nats |= {shape: [] for shape in more}
    for number, trial in enumerate(trials):
        on_step(len(trials) + number, total)
        for shape, value in _of_shapes(base, trial, plan, more):
            nats[shape].append(value)
    on_step(total, total)
    return Measurement(
        recency=tuple(recency), full=tuple(full), shapes={shape: tuple(values) for shape, values in nats.items()}
    )


def _of_shapes(base: Base, trial: Trial, plan: Plan, shapes: Sequence[Shape]) -> Iterator[tuple[Shape, float]]:
    source = LoadedBase(base)
    for made in dict.fromkeys((shape.gister, shape.block_tokens, shape.gist_width) for shape in shapes):
        gister, block_tokens, gist_width = made
        with (
            tempfile.TemporaryDirectory(prefix="megacontext-port-") as folder,
            assembly.open(
                Path(folder) / "trial.mc",
                base=source,
                create=True,
                gister=gister,
                block_tokens=block_tokens,
                gist_width=gist_width,
            ) as memory,
        ):
            memory.append(trial.history, source="trial")
            for shape in shapes:
                if (shape.gister, shape.block_tokens, shape.gist_width) == made:
                    yield shape, _with_gists(memory, source, shape, trial, plan)


def _with_gists(memory: OpenedMemory, source: LoadedBase, shape: Shape, trial: Trial, plan: Plan) -> float:
    config = SessionConfig(
        budget_entries=plan.window_entries,
        lens="recency",
        positions=shape.positions,
        sink_tokens=shape.sink_tokens,
        recent_tokens=recent_room(plan.window_entries),
        kv="exact",
    )
    with Session(memory, source, config) as session:
        session.refocus(reserve_entries=plan.target_tokens)
        return float(session.nll(trial.target).mean())


def _plain(kind: type[Recency] | type[FullContext], base: Base, trial: Trial, plan: Plan) -> float:
    with (
        tempfile.TemporaryDirectory(prefix="megacontext-port-") as folder,
        assembly.open(Path(folder) / "trial.mc", base=LoadedBase(base), create=True, gister="mean") as memory,
    ):
        memory.append(trial.history, source="trial")
        method = kind(memory, base, budget_entries=plan.window_entries)
        return float(method.nll(trial.target).mean())
