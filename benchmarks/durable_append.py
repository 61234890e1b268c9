"""What a durable append of 32 tokens costs at 4 M tokens of history against 4 k, and against the bare disk.

One process, one disk; appends to both memories and the two baselines (a bare SQLite commit of as many bytes, a file
write with fsync) take turns, so that whatever else the disk does hits all alike. As many appends as fill a segment, so
that the mean holds just one seal with its gists. python benchmarks/durable_append.py --out benchmarks/results
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.runtime.opened import OpenedMemory
from megacontext.units import format_count
from record import parser, record, row

APPEND_TOKENS = 32


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, nargs=2, default=(4_096, 4_000_000), metavar=("SHORT", "LONG"))
    arguments.add_argument("--appends", type=int, default=2_048, help="per memory (default: %(default)s, one segment)")
    arguments.add_argument("--folder", type=Path, help="where the disk is to be measured (default: temporary files)")
    given = arguments.parse_args()
    handle = BaseHandle("reference")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        memories = [make_history(folder / f"{length}.mc", handle, length) for length in given.tokens]
        works = [*map(appender, memories), sqlite_commit(folder / "bare.sqlite"), file_sync(folder / "bare.log")]
        seconds = take_turns(works, given.appends)
        rows = figures(seconds, [format_count(length) for length in given.tokens])
        for memory in memories:
            memory.close()
    record("durable_append", rows, given.out)


def take_turns(works: list[Callable[[], None]], num_rounds: int) -> list[list[float]]:
    """Seconds of every call, in rounds that each begin with another of the works."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(num_rounds + 8):  # the first ones warm up
        for turn in range(len(works)):
            which = (number + turn) % len(works)
            began = time.perf_counter()
            works[which]()
            if number >= 8:
                seconds[which].append(time.perf_counter() - began)
    return seconds


def figures(seconds: list[list[float]], lengths: list[str]) -> list[dict[str, object]]:
    median = [1000 * statistics.median(samples) for samples in seconds]
    mean = [1000 * statistics.fmean(samples) for samples in seconds]
    against = f"history {lengths[1]} / {lengths[0]}"
    rows = [
        row(
            f"durable append of 32 tokens, median: {against}",
            median[1] / median[0],
            "x",
            at_most=1.1,
            short_ms=median[0],
            long_ms=median[1],
        ),
        row(f"the same, mean with one seal: {against}", mean[1] / mean[0], "x", short_ms=mean[0], long_ms=mean[1]),
    ]
    names = (f"append at {lengths[0]}", f"append at {lengths[1]}", "bare SQLite commit", "file write and fsync")
    for name, samples, middle, average in zip(names, seconds, median, mean, strict=True):
        p99, worst = 1000 * float(np.quantile(samples, 0.99)), 1000 * max(samples)
        rows.append(
            row(f"{name}, median", middle, "ms", mean_ms=average, p99_ms=p99, max_ms=worst, repeats=len(samples))
        )
    rows.append(row("append / bare SQLite commit, medians", median[1] / median[2], "x", at_most=1.5))
    return rows


def appender(memory: OpenedMemory) -> Callable[[], None]:
    random = np.random.default_rng(0)

    def append() -> None:
        memory.append(random.integers(0, memory.info.vocab_size, APPEND_TOKENS), source="history")

    return append


def sqlite_commit(path: Path) -> Callable[[], None]:
    """One row of as many bytes, one transaction, with the catalog's own settings of durability."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)")
    data = bytes(4 * APPEND_TOKENS)

    def commit() -> None:
        connection.execute("INSERT INTO rows (body) VALUES (?)", (data,))

    return commit


def file_sync(path: Path) -> Callable[[], None]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = bytes(4 * APPEND_TOKENS)

    def write() -> None:
        os.write(descriptor, data)
        os.fsync(descriptor)

    return write


if __name__ == "__main__":
    main()
