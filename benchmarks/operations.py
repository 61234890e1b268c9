"""What fixed workloads do, counted: a regression gate that no clock can blur. Part of the tests.

Counted are calls of our own functions, SQL statements, syncs to disk, calls into TensorStore, matrix products, uploads
(what goes to the device, a copy each where that is a GPU), tensors that torch allocates or joins when told so by name,
buffers of a cache that are made or grow, and entries that ran through the model; a tiny model with fixed weights stands
for all. Counts may not rise above the committed ones (our own calls by more than 2 %, everything else not at all);
where they fall by a tenth, commit the new ones.

python benchmarks/operations.py            # compare, exit code 1 if something rose
python benchmarks/operations.py --update   # write benchmarks/operations.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import megacontext
import megacontext as mc
from megacontext.bases.kv_cache import new_buffer
from megacontext.bases.transfers import on_device
from megacontext.evaluation.library import assemble_library
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.fake_base import tiny_base

COMMITTED = Path(__file__).with_name("operations.json")
PACKAGE = str(Path(megacontext.__file__).parent)
SLACK = 0.02  # of our own calls: dictionaries and sets may be walked in another order
FALLEN = 0.9  # below this share of the committed count, it is out of date
C_CALLS = {
    "execute": "sql",
    "executemany": "sql",
    "fsync": "syncs",
    "fdatasync": "syncs",
    "linear": "products",
    "scaled_dot_product_attention": "products",
    "bmm": "products",
    "matmul": "products",
}
TORCH_CALLS = {
    "cat": "concatenations",
    "stack": "concatenations",
    "empty": "allocations",
    "empty_like": "allocations",
    "full": "allocations",
    "new_empty": "allocations",
    "new_zeros": "allocations",
    "ones": "allocations",
    "zeros": "allocations",
    "zeros_like": "allocations",
}
TORCH_FUNCTIONS = torch.cat.__self__  # type: ignore[attr-defined]  # numpy has functions of the same names
OF_OURS = {on_device.__code__: "uploads", new_buffer.__code__: "buffers"}
QUESTIONS = ("What is the code for Kolibri?", "Who walked along the river?", "When does the ship sail?")
BASE = tiny_base()


class World:
    """A memory of real text, as bytes, and what workloads need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        library = assemble_library(BASE.codec, num_tokens=150_000, seed=0)
        self.text = "".join(text.text for text in library.texts)
        self.token_ids = np.frombuffer(self.text.encode(), dtype=np.uint8)[:140_000].astype(np.uint32)
        self.memory = self.new_memory("old.mc")
        self.memory.append(self.token_ids, source="old")

    def new_memory(self, name: str) -> OpenedMemory:
        return mc.open(self.folder / name, base=BASE, create=True, gister="mean")


def small_appends(world: World) -> int:
    with world.new_memory("appends.mc") as memory:
        for start in range(0, 1000, 10):
            memory.append(world.token_ids[start : start + 10], source="chat")
    return 0


def bulk_append(world: World) -> int:
    with world.new_memory("bulk.mc") as memory:
        memory.append(world.token_ids[:70_000])
    return 0


def ingest_of_files(world: World) -> int:
    folder = world.folder / "texts"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.txt").write_text(world.text[number * 5000 : number * 5000 + 5000])
    with world.new_memory("ingest.mc") as memory:
        memory.ingest(folder)
        memory.ingest(folder)
    return 0


def searches(world: World) -> int:
    for question in QUESTIONS:
        world.memory.search(question)
    return 0


def scattered_reads(world: World) -> int:
    random = np.random.default_rng(0)
    for start in random.integers(0, 100_000, 50).tolist():
        world.memory.tokens(start, start + 64)
    world.memory.reader.gist_batch(np.ones(2000, dtype=np.int64), random.integers(0, 4000, 2000))
    return 0


def refocus_by_words(world: World) -> int:
    with world.memory.session(budget_entries=512, lens="lexical") as session:
        for question in QUESTIONS:
            session.refocus(question)
        return session.num_forwarded_entries


def refocused_windows(kv: str) -> Callable[[World], int]:
    def work(world: World) -> int:
        with world.memory.session(budget_entries=512, lens="recency", kv=kv) as session:
            for start in (5_000, 90_000, 30_000, 60_000):
                session.reveal(start, start + 1)
                session.nll([1, 2, 3])
            return session.num_forwarded_entries

    return work


def answers(world: World) -> int:
    with world.memory.session(budget_entries=512, lens="auto", refocus_interval=8) as session:
        list(session.generate(QUESTIONS[0], max_new_tokens=24, stop=()))
        session.explain()
        return session.num_forwarded_entries


def tokens_decoded(world: World) -> int:
    """Nothing but decode steps, after a window that is there."""
    with world.memory.session(budget_entries=512, lens="recency", refocus_interval=0) as session:
        session.nll([1, 2, 3])
        list(session.complete("", max_new_tokens=64))
        return session.num_forwarded_entries


def answers_together(world: World) -> int:
    sessions = [world.memory.session(budget_entries=400 + 10 * n, lens="recency", refocus_interval=0) for n in range(4)]
    list(mc.together([session.generate(QUESTIONS[1], max_new_tokens=12, stop=()) for session in sessions]))
    return sum(session.num_forwarded_entries for session in sessions)


def saved_and_restored(world: World) -> int:
    path = world.folder / "saved.session"
    with world.memory.session(budget_entries=512, lens="recency") as session:
        session.nll([1, 2, 3])
        session.save(path)
    with world.memory.restore_session(path) as session:
        session.nll([1, 2, 3])
        return session.num_forwarded_entries


WORKLOADS: dict[str, Callable[[World], int]] = {
    "a hundred small appends": small_appends,
    "a bulk append that seals": bulk_append,
    "six files ingested, twice": ingest_of_files,
    "three searches": searches,
    "scattered reads": scattered_reads,
    "three refocuses by words": refocus_by_words,
    "four windows, exact": refocused_windows("exact"),
    "four windows, patched": refocused_windows("patch"),
    "an answer": answers,
    "sixty-four tokens": tokens_decoded,
    "four answers together": answers_together,
    "a session saved and restored": saved_and_restored,
}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts of the block, by kind."""
    counts: Counter[str] = Counter()

    def notice(frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            if frame.f_code.co_filename.startswith(PACKAGE):
                counts["calls"] += 1
                if frame.f_code in OF_OURS:
                    counts[OF_OURS[frame.f_code]] += 1
        elif event == "c_call":
            kind = C_CALLS.get(called.__name__)
            if kind is not None:
                counts[kind] += 1
            elif called.__name__ in TORCH_CALLS and _is_of_torch(called):
                counts[TORCH_CALLS[called.__name__]] += 1
            elif (getattr(called, "__module__", None) or "").startswith("tensorstore"):
                counts["tensorstore"] += 1

    sys.setprofile(notice)
    try:
        yield counts
    finally:
        sys.setprofile(None)


def _is_of_torch(called: Any) -> bool:
    owner = getattr(called, "__self__", None)
    return owner is TORCH_FUNCTIONS or isinstance(owner, torch.Tensor)


def count_all() -> dict[str, dict[str, int]]:
    """The counts of every workload, each run once before, so that what is made at first use is there."""
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        for where in (warm, folder):
            world, found = World(Path(where)), {}
            for name, work in WORKLOADS.items():
                with counted() as counts:
                    forwarded = work(world)
                found[name] = {**dict(sorted(counts.items())), **({"forwarded": forwarded} if forwarded else {})}
            world.memory.close()
    return found


def compare(found: dict[str, dict[str, int]], committed: dict[str, dict[str, int]]) -> list[str]:
    """What rose, and what fell so far that the committed count is out of date; prints all of it as a table."""
    table = Table(title="operations", title_justify="left")
    for column in ("workload", "what", "now", "committed"):
        table.add_column(column, justify="right" if column in ("now", "committed") else "left")
    wrong = []
    for name in sorted({*found, *committed}):
        now, before = found.get(name, {}), committed.get(name, {})
        for kind in sorted({*now, *before}):
            count, limit = now.get(kind, 0), before.get(kind, 0)
            allowed = limit * (1 + SLACK) if kind == "calls" else limit
            if count > allowed:
                wrong.append(f"{name}: {count:,} {kind} instead of {limit:,}")
            elif count < limit * FALLEN:
                wrong.append(f"{name}: {count:,} {kind} instead of {limit:,}: better, so commit it with --update")
            table.add_row(name, kind, f"{count:,}", f"{limit:,}")
    Console().print(table)
    return wrong


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--update", action="store_true", help="commit to what is counted now")
    given = arguments.parse_args()
    found = count_all()
    if given.update:
        COMMITTED.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return 0
    wrong = compare(found, json.loads(COMMITTED.read_text(encoding="utf-8")))
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
