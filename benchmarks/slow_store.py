"""What is fetching ahead worth where the sealed arrays lie across a network?

The same memory twice over HTTP, each answer of the store 20 ms late, with and without fetching ahead; nothing cached at
the start. Detail follows a reader: each refocus opens the two blocks behind the last ones, and time passes in between
as it does while tokens are drawn. Timed is what a refocus waits for: reading the rows that are new in the window.
python benchmarks/slow_store.py --out benchmarks/results
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.focus.ahead import likely_next
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.memory.memory import Memory
from megacontext.ports.arrays import ArraySpec
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.engine import PREFETCH_ROWS
from megacontext.storage.cached_arrays import CachedArrays, cached_store
from megacontext.testing.s3_folder import S3Folder
from megacontext.units import MIB
from record import parser, record, row

CACHE_BYTES = 64 * MIB
PAUSE_S = 0.1  # between refocuses: eight tokens of a small model
NUM_READERS = 12


class NotAhead(CachedArrays):
    """The same store, which fetches nothing ahead."""

    def prefetch(self, spec: ArraySpec, spans: Sequence[tuple[int, int]]) -> None:
        return


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=1_000_000)
    arguments.add_argument("--latency-ms", type=float, default=20.0)
    arguments.add_argument("--refocuses", type=int, default=32, help="of each reader (default: %(default)s)")
    given = arguments.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # the store wants some, and checks none
        os.environ.setdefault(name, "any")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    waited: dict[str, list[float]] = {"fetched ahead": [], "not": []}
    requests = dict.fromkeys(waited, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "memory"
        make_history(folder, BaseHandle("reference"), given.tokens).close()
        with S3Folder(folder, latency_s=given.latency_ms / 1e3) as server, open_memory(folder, read_only=True) as local:
            for reader in range(NUM_READERS):
                for kind, samples in waited.items():
                    before = server.num_requests
                    samples += follow(over(server.url, local, ahead=kind == "fetched ahead"), reader, given.refocuses)
                    requests[kind] += server.num_requests - before
    record("slow_store", figures(waited, requests, given.latency_ms), given.out)


def over(url: str, local: Memory, *, ahead: bool) -> Memory:
    """The memory with its sealed arrays at ``url``, and nothing of them in memory."""
    store = cached_store(url, cache_bytes=CACHE_BYTES)
    if not ahead:
        store.__class__ = NotAhead
    parts = local._parts
    return Memory(
        catalog=parts.catalog, arrays=store, blobs=parts.blobs, codec=parts.codec, gister=parts.gister, read_only=True
    )


def follow(memory: Memory, seed: int, num_refocuses: int) -> list[float]:
    """Milliseconds that each refocus waits for what is new in its window, the first one left out: it is cold."""
    wc = WorkingContext(memory.tree, num_tokens=memory.num_tokens, config=WorkingContextConfig(budget_entries=1024))
    reader, block = memory.reader, memory.tree.block_tokens
    place = int(np.random.default_rng(seed).integers(0, memory.num_tokens // block - 2 * num_refocuses - 40)) * block
    shown: set[Any] = set()
    waits = []
    for _ in range(num_refocuses):
        wc.reveal(place, place + 2 * block)
        place += 2 * block
        rows = set(wc.cut.rows())
        new = sorted(rows - shown)
        began = time.perf_counter()
        reader.token_batch([(start, stop) for level, start, stop in new if not level])
        nodes = np.array([(level, start // block**level) for level, start, _ in new if level]).reshape(-1, 2)
        reader.gist_batch(nodes[:, 0], nodes[:, 1])
        waits.append(1e3 * (time.perf_counter() - began))
        shown = rows
        reader.prefetch(likely_next(wc.tree, wc.cut, np.zeros(wc.num_entries), limit=PREFETCH_ROWS))
        time.sleep(PAUSE_S)
    return waits[1:]


def figures(waited: dict[str, list[float]], requests: dict[str, int], latency_ms: float) -> list[dict[str, object]]:
    rows = []
    for kind, samples in waited.items():
        late = sum(sample >= latency_ms for sample in samples) / len(samples)
        rows.append(
            row(
                f"a refocus waits for a store {latency_ms:g} ms away, {kind}: mean",
                statistics.fmean(samples),
                "ms",
                median_ms=statistics.median(samples),
                p95_ms=float(np.quantile(samples, 0.95)),
                share_that_waits=late,
                requests=requests[kind],
                refocuses=len(samples),
            )
        )
    ahead, behind = (statistics.fmean(samples) for samples in waited.values())
    return [*rows, row("waited without / with fetching ahead, means", behind / ahead, "x")]


if __name__ == "__main__":
    main()
