"""What it takes to decide where detail goes: lens, allocator and all, at 8,192 entries over 1 M and 10 M tokens.

Facts are hidden in real text and asked for one after another. A decision begins when the question has run in the
window (lenses that go by words alone need none) and ends when the new cut is committed; running the model is no part
of it. Every lens decides on each question, in an order drawn anew; the first questions warm up. Beside the whole
stand its parts: search (full-text), score (the lens, with its search), scan (of the learned lens, with its search),
allocate, apply; and the first decision of a session, in which keys of all gists are made.

The reference core is told that it may have windows of 16,384 positions, four times what it was trained for: what its
answers would be worth does not matter here. python benchmarks/focus_decision.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from histories import token_stream
from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.haystack import build_haystack
from megacontext.evaluation.library import assemble_library
from megacontext.focus.edits import Edits
from megacontext.focus.lenses.lensnet import LensNetLens
from megacontext.ports.base import Base, SupportsLearnedLens
from megacontext.runtime.base_source import LoadedBase
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.engine import Engine
from megacontext.runtime.focusing import OneLook
from megacontext.runtime.gist_keys import GistKeys
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session, _question_query
from record import parser, record, row

AT_MOST_MS = 5.0
HAYSTACK_TOKENS = 1_000_000
NUM_WARM = 3
SEED = 1
ROOM_ENTRIES = 128  # for the question


class Stopwatch:
    """Milliseconds of each decision, by part."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.decisions: list[dict[str, float]] = []

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.now[part] += 1e3 * (time.perf_counter() - began)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time every call of a method of one object, or of all objects of a class."""
        method = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            with self.timed(part):
                return method(*args, **named)

        setattr(owner, name, watched)

    def next(self) -> None:
        self.decisions.append(dict(self.now))
        self.now.clear()

    def medians(self) -> dict[str, float]:
        counted = self.decisions[NUM_WARM:]
        parts = sorted({part for each in counted for part in each})
        return {part: statistics.median(each.get(part, 0.0) for each in counted) for part in parts}

    def p95(self, part: str) -> float:
        found = sorted(each[part] for each in self.decisions[NUM_WARM:])
        return found[min(len(found) - 1, len(found) * 95 // 100)]


class Decider:
    """One session whose lens decides on questions."""

    def __init__(self, memory: OpenedMemory, base: Base, lens: str, num_entries: int) -> None:
        assert isinstance(base, SupportsLearnedLens)
        config = SessionConfig(budget_entries=num_entries + ROOM_ENTRIES, lens=lens)
        self.session = Session(memory, LoadedBase(base), config)
        self.engine: Engine = self.session._engine
        self.watch = Stopwatch()
        focus = self.engine.focus
        keys = self.engine._gist_keys = GistKeys(base, memory)
        for owner, name, part in (
            (focus.lens, "score", "score"),
            (focus._allocator, "allocate", "allocate"),
            (self.engine.working_context, "apply", "apply"),
            (keys, "of", "keys"),
        ):
            self.watch.watch(owner, name, part)
        if isinstance(focus.lens, LensNetLens):
            self.watch.watch(focus.lens, "_shortlist", "scan")

    def decide(self, question: str) -> None:
        engine = self.engine
        query = _question_query(engine, question)
        engine.reserve(len(query.scratch), purpose="the question")
        if engine.focus.needs_window:
            engine.show(query.scratch)
        look = OneLook(engine.memory, num_tokens=engine.working_context.num_tokens)
        self.watch.watch(look, "search_hits", "search")
        move: Callable[..., Edits] = partial(engine.focus.refocus, query.text, query.token_ids, look=look)
        with self.watch.timed("all"):
            if engine.focus.needs_window:
                engine._look(query, move)
            else:
                move()
        self.watch.next()


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--entries", type=int, default=8192)
    arguments.add_argument("--long", type=int, default=10_000_000, help="tokens of the longer history; 0: none")
    arguments.add_argument("--questions", type=int, default=60)
    given = arguments.parse_args()
    handle = BaseHandle("reference")
    base = handle.load()
    base.info = replace(base.info, max_positions=2 * given.entries)
    rows: list[dict[str, object]] = []
    for gister, num_tokens in (("gistnet", HAYSTACK_TOKENS), ("mean", given.long)):
        if num_tokens:
            with tempfile.TemporaryDirectory() as folder:
                library = assemble_library(handle.codec, num_tokens=HAYSTACK_TOKENS, seed=SEED)
                haystack = build_haystack(
                    Path(folder), handle, library, num_facts=given.questions, seed=SEED, gister=gister
                )
                with haystack.memory as memory:
                    grow(memory, handle, num_tokens)
                    questions = [place.fact.question for place in haystack.hidden]
                    rows += measure(memory, base, questions, given.entries)
    record("focus_decision", rows, given.out)


def grow(memory: OpenedMemory, handle: BaseHandle, num_tokens: int) -> None:
    """More real text behind the haystack, until the history is that long."""
    missing = num_tokens - memory.num_tokens
    if missing > 0:
        for piece in token_stream(handle, missing):
            memory.append(piece, source="more")


def measure(memory: OpenedMemory, base: Base, questions: list[str], num_entries: int) -> Iterator[dict[str, object]]:
    """A row for each lens; the learned one only over gists that the base made."""
    lenses = ["recency", "lexical", "auto", *(["lensnet"] if memory.info.gister_name == "gistnet" else [])]
    deciders = {lens: Decider(memory, base, lens, num_entries) for lens in lenses}
    random = Random(SEED)
    for question in questions:
        for lens in random.sample(lenses, len(lenses)):  # whoever comes later finds warm what the first had to read
            deciders[lens].decide(question)
    for lens, decider in deciders.items():
        parts = decider.watch.medians()
        first_ms = decider.watch.decisions[0]["all"]
        yield row(
            f"refocus decision, lens {lens}, {num_entries:,} entries over {memory.num_tokens / 1e6:.0f} M tokens",
            parts.pop("all"),
            "ms",
            at_most=AT_MOST_MS,
            p95_ms=decider.watch.p95("all"),
            **{f"{part}_ms": ms for part, ms in parts.items() if ms},
            first_ms=first_ms,
            entries=decider.session.working_context.cost,
            questions=len(decider.watch.decisions) - NUM_WARM,
            threads=torch.get_num_threads(),
        )
        decider.session.close()


if __name__ == "__main__":
    main()
