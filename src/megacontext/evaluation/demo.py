"""The main job in one command: a million tokens of real text, a window of 1,024 entries, and an honest account.

Reads shipped books and installed source code with facts hidden at random depths, asks for them, goes on with held-out
text, measures what it costs, and leaves a folder: the memory (ask it yourself), the texts, a picture, a page, JSON.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from megacontext.bases.registry import BaseHandle
from megacontext.errors import BudgetError, MemoryExistsError
from megacontext.evaluation.continuations import draw_continuations
from megacontext.evaluation.cost import DecodeCost, decode_cost, disk_cost
from megacontext.evaluation.demo_screen import DemoScreen
from megacontext.evaluation.focus_trace import FocusStep, FocusTrace
from megacontext.evaluation.haystack import MEMORY_NAME, Haystack, build_haystack, history_memory, sources_of, text_name
from megacontext.evaluation.library import Library, assemble_library
from megacontext.evaluation.methods.focused import FocusedMemory, OracleFocus
from megacontext.evaluation.methods.learned import with_learned
from megacontext.evaluation.methods.method import Method
from megacontext.evaluation.methods.plain import Recency
from megacontext.evaluation.methods.retrieval import Retrieval
from megacontext.evaluation.outputs import OUTPUTS, write_outputs
from megacontext.evaluation.pace import Pace, best_pace
from megacontext.evaluation.report import Costs
from megacontext.evaluation.runs.budget import needed_budget
from megacontext.evaluation.scores import Comparison, MethodScore
from megacontext.evaluation.short_histories import ShortConfig, compare_short_histories
from megacontext.evaluation.stamp import stamp
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS
from megacontext.evaluation.trials import Answered, Question, Tally, ask_all, read_on
from megacontext.gisters.gistnet import LEARNED_GISTER
from megacontext.ports.base import BaseInfo
from megacontext.runtime.config import window_budget
from megacontext.runtime.shapes import DEFAULT_BLOCK_TOKENS
from megacontext.tree.geometry import TreeGeometry
from megacontext.values import whole_number

__all__ = ["LEAST_TOKENS", "DemoConfig", "DemoResult", "run_demo"]

METHODS: tuple[type[Method], ...] = (Recency, Retrieval, FocusedMemory, OracleFocus)
MARKER, MADE_BY = "README.txt", "Made by `megacontext demo`"
LEAST_TOKENS = 20_000
CONTEXT_TOKENS = 1200  # read before each continuation: more than a window, so that recency sees nothing else
NUM_SHOWN = 4
NUM_TRACED = 40
READING_SECONDS = 110  # what reading may take before gists are made the cheap way
READING_OVERHEAD = 1.25  # context that is read twice, tokenizing, index, disk
COST_LENGTHS = (10_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """out: folder that is made; num_tokens: of real text; num_facts: hidden and asked for; gister: auto takes
    learned gists if the base has them, else extractive ones if this machine makes them fast enough, else means."""

    out: Path = Path("demo-output")
    num_tokens: int = 1_100_000
    num_facts: int = 60
    num_continuations: int = 40
    num_short: int = 12
    num_generated: int = 64
    budget_entries: int = 1024
    gister: str = "auto"
    base: str = "reference"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_tokens", LEAST_TOKENS), ("num_facts", 1), ("num_continuations", 0), ("num_short", 1)):
            whole_number(name, getattr(self, name), least=least)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything that table, picture and page show. samples: question, answer, value, quotes of the first answers."""

    comparison: Comparison
    short: Comparison
    costs: Costs
    trace: FocusTrace
    samples: list[dict[str, Any]]
    seconds: dict[str, float]
    stamp: dict[str, object]


def run_demo(config: DemoConfig, *, console: Console | None = None, progress: Console | None = None) -> DemoResult:
    """Run everything and write ``config.out``; tables go to ``console``, progress bars to ``progress``."""
    screen = DemoScreen(console or Console(), progress or Console(stderr=True))
    handle = BaseHandle(config.base)
    check_window(config, handle.info)
    handle.load()  # before an earlier demo makes room
    prepare_folder(config.out)
    screen.begin(config.num_tokens, config.budget_entries, config.num_facts)
    if config.gister == "auto" and handle.info.gist_net:
        config = replace(config, gister=LEARNED_GISTER)
    with best_pace(handle.load()) as pace:
        gister = affordable_gister(config, pace, screen) if config.gister == "auto" else config.gister
        return measure(replace(config, gister=gister), handle, screen)


def check_window(config: DemoConfig, info: BaseInfo) -> None:
    """Raise BudgetError for a window that the base was not made for, or that is too small for the history."""
    budget = window_budget(config.budget_entries)
    if budget > info.max_positions:
        raise BudgetError(
            f"budget is {budget}, but {info.name} was made for windows of at most {info.max_positions}: use a budget "
            f"of {info.max_positions} or less"
        )
    tree = TreeGeometry(DEFAULT_BLOCK_TOKENS)
    needed = needed_budget(budget, tree, gist_width=1, num_tokens=config.num_tokens, room=ROOM_TOKENS)
    if budget < needed:
        raise BudgetError(
            f"budget is {budget}, but a history of {config.num_tokens:,} tokens with a question needs "
            f"{needed} entries: use a budget of at least {needed}"
        )


def measure(config: DemoConfig, handle: BaseHandle, screen: DemoScreen) -> DemoResult:
    """Read, ask, go on, time, compare; then write and show the account."""
    clock = Clock()
    library = assemble_library(handle.codec, num_tokens=config.num_tokens, seed=config.seed)
    haystack = read_library(config, handle, library, screen)
    with haystack.memory:
        clock.lap("read")
        num_tokens, disk = haystack.memory.num_tokens, disk_cost(haystack.memory, haystack.folder)
        scores, trace, samples = compare_methods(config, handle, library, haystack, screen)
        clock.lap("hidden facts and continuations")
        decode = measure_decoding(handle, haystack, config, screen)
        clock.lap("cost")
    short = compare_short(config, handle, library, screen)
    clock.lap("short histories")
    result = DemoResult(
        comparison=Comparison(
            title=f"{num_tokens:,} tokens of history, window of {config.budget_entries:,} entries",
            num_tokens=num_tokens,
            budget_entries=config.budget_entries,
            scores=scores,
        ),
        short=short,
        costs=Costs(
            ingest_tokens=haystack.report.num_tokens,
            ingest_seconds=haystack.report.seconds,
            disk=disk,
            decode=decode,
        ),
        trace=trace,
        samples=samples,
        seconds=clock.laps,
        stamp=stamp(),
    )
    files = write_outputs(config.out, result, {**asdict(config), "out": str(config.out)})
    screen.end(result.comparison, result.short, result.costs, files, clock.total, samples)
    return result


def affordable_gister(config: DemoConfig, pace: Pace, screen: DemoScreen) -> str:
    """``extractive`` if reading with it takes no more than READING_SECONDS on this machine, else ``mean``."""
    seconds = READING_OVERHEAD * config.num_tokens / pace.tokens_per_second if pace.tokens_per_second else math.inf
    if seconds <= READING_SECONDS:
        return "extractive"
    screen.say_cheap_gists(pace.tokens_per_second, seconds)
    return "mean"


def read_library(config: DemoConfig, handle: BaseHandle, library: Library, screen: DemoScreen) -> Haystack:
    """Write the texts with the facts in them, and ingest them."""
    with screen.reading(config.num_tokens) as advance:
        haystack = build_haystack(
            config.out,
            handle,
            library,
            num_facts=config.num_facts,
            seed=config.seed,
            gister=config.gister,
            progress=advance,
        )
    screen.read(haystack.report, haystack.memory.inspect(), len(haystack.texts))
    return haystack


def compare_methods(
    config: DemoConfig, handle: BaseHandle, library: Library, haystack: Haystack, screen: DemoScreen
) -> tuple[list[MethodScore], FocusTrace, list[dict[str, Any]]]:
    """Every method on the hidden facts, then on held-out text that the memory goes on to read."""
    base, memory = handle.load(), haystack.memory
    with ExitStack() as stack:
        kinds = with_learned(METHODS, handle.info, gister=config.gister)
        methods = [kind(memory, base, budget_entries=config.budget_entries) for kind in kinds]
        for method in methods:
            stack.callback(method.close)
        tallies = [Tally.of(method) for method in methods]
        trace, samples = ask_hidden_facts(haystack, methods, tallies, config, screen)
        continuations = draw_continuations(
            Random(config.seed), base.codec, library, config.num_continuations, context_tokens=CONTEXT_TOKENS
        )
        with screen.working("going on with held-out text", len(continuations)) as step:
            read_on(methods, continuations, tallies, step)
    return [tally.score() for tally in tallies], trace, samples


def compare_short(config: DemoConfig, handle: BaseHandle, library: Library, screen: DemoScreen) -> Comparison:
    """Every method on histories that fit into the base's window as a whole."""
    short = ShortConfig(num_histories=config.num_short, seed=config.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        screen.working("short histories, where full context fits", config.num_short) as step,
    ):
        return compare_short_histories(Path(folder), handle, library.texts, short, gister=config.gister, on_step=step)


def ask_hidden_facts(
    haystack: Haystack, methods: list[Method], tallies: list[Tally], config: DemoConfig, screen: DemoScreen
) -> tuple[FocusTrace, list[dict[str, Any]]]:
    """Ask every method for every fact; MegaContext first, with its first answers live and all its cuts recorded."""
    questions = [
        Question(fact=place.fact, evidence=span) for place, span in zip(haystack.hidden, haystack.spans, strict=True)
    ]
    steps: list[FocusStep] = []
    samples: list[dict[str, Any]] = []
    focused = next(method for method in methods if type(method) is FocusedMemory)

    def watch(answered: Answered) -> None:
        wc, question = focused.session.working_context, answered.question
        steps.append(FocusStep.of(question.fact.question, wc, evidence=question.evidence, correct=answered.correct))
        if len(samples) < NUM_SHOWN:
            sample = {
                "question": question.fact.question,
                "answer": answered.answer.strip(),
                "value": question.fact.value,
                "correct": answered.correct,
                "depth": question.evidence[0] / wc.num_tokens,
                "sources": [{**asdict(span), "uri": text_name(span.uri)} for span in focused.session.explain(limit=3)],
            }
            samples.append(sample)
            screen.show_answer(sample, wc.num_tokens)

    with screen.working("asking for hidden facts", len(methods) * len(questions)) as step:
        for method, tally in sorted(zip(methods, tallies, strict=True), key=lambda pair: pair[0] is not focused):
            watcher = watch if method is focused else None
            ask_all(method, questions, tally, on_answer=_both(watcher, step))
    trace = FocusTrace(steps=steps[:NUM_TRACED], sources=sources_of(haystack), budget_entries=config.budget_entries)
    return trace, samples


def measure_decoding(
    handle: BaseHandle, haystack: Haystack, config: DemoConfig, screen: DemoScreen
) -> list[DecodeCost]:
    """Time generation at 10 k and 100 k tokens of history and over the whole memory, with the same window."""
    costs: list[DecodeCost] = []
    lengths = [length for length in COST_LENGTHS if length < haystack.memory.num_tokens // 2]
    with (
        screen.working("timing generation", len(lengths) + 1) as step,
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        memories = [
            stack.enter_context(history_memory(Path(folder) / f"{length}.mc", handle, haystack.memory, length))
            for length in lengths
        ]
        for memory in [*memories, haystack.memory]:
            with memory.session(budget_entries=config.budget_entries) as session:
                costs.append(
                    decode_cost(session, num_tokens=memory.num_tokens, prompt="\n", num_generated=config.num_generated)
                )
            step()
    return costs


def prepare_folder(out: Path) -> None:
    """Make ``out``, or empty it of an earlier demo; refuse to touch a folder that is somebody else's."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _is_of_a_demo(out))):
        raise MemoryExistsError(f"{out} is not empty and no earlier demo's; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("library", MEMORY_NAME):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in OUTPUTS:  # of other facts, if this demo is stopped before it has its own
        (out / name).unlink(missing_ok=True)
    (out / MARKER).write_text(
        f"{MADE_BY}; the next one replaces it.\n\n{MEMORY_NAME}: the memory; ask it yourself:\n"
        f'  megacontext ask {out / MEMORY_NAME} "What is the code for ...?"\n'
        "library: the texts with the facts in them\n"
        "index.html: the account; detail.png: its picture; results.json: every figure\n",
        encoding="utf-8",
    )


def _is_of_a_demo(folder: Path) -> bool:
    """Many folders have a file of that name; a demo's begins as only a demo's does."""
    try:
        return (folder / MARKER).read_text(encoding="utf-8").startswith(MADE_BY)
    except (OSError, ValueError):
        return False


class Clock:
    """Seconds per part."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return time.perf_counter() - self._began


def _both(watcher: Callable[[Answered], None] | None, step: Callable[[], None]) -> Callable[[Answered], None]:
    def seen(answered: Answered) -> None:
        if watcher:
            watcher(answered)
        step()

    return seen
