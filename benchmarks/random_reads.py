"""What reading at random places costs against a memory map of the same rows, everything in memory already.

An *expand* reads what a node is replaced by: the 32 tokens of a level-1 node, or the 32 gists below a level-2 node. A
*gather* reads 4,096 rows of a window in one go: half of them scattered level-1 gists, half the tokens of scattered
blocks. Ours goes through the memory's reader, which knows what is sealed, refuses what is not there and gives offsets
and weights with every gist. The map reads the same rows of plain ``.npy`` files (tokens, vectors, offsets and weights)
and copies them. Both take turns, question by question, on the same places.

A memory of the bundled base with mean gists (256 values), and one of 1,024 values with gists by chance.
python benchmarks/random_reads.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.memory.memory import Memory
from megacontext.memory.reads import TreeReader
from megacontext.units import MIB, format_count
from record import parser, record, row
from synthetic import chance_memory

BLOCK_TOKENS = 32
WINDOW_ROWS = 4_096
AT_MOST = 4

Places = npt.NDArray[np.int64]
Work = Callable[[Places], object]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=1 << 20)
    arguments.add_argument(
        "--cache-mib", type=int, default=256, help="enough to hold everything (default: %(default)s)"
    )
    arguments.add_argument("--expands", type=int, default=2_000)
    arguments.add_argument("--gathers", type=int, default=200)
    given = arguments.parse_args()
    handle, rows = BaseHandle("reference"), []
    cache_bytes = given.cache_mib * MIB
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with make_history(folder / "mean.mc", handle, given.tokens, cache_bytes=cache_bytes) as memory:
            rows += measure(memory, folder / "mean", given.expands, given.gathers)
            token_ids = memory.tokens(0, memory.num_tokens)
        with chance_memory(folder / "chance.mc", handle, token_ids, dim=1_024, cache_bytes=cache_bytes) as wide:
            rows += measure(wide, folder / "chance", given.expands, given.gathers)
    record("random_reads", rows, given.out)


class Mapped:
    """The sealed rows of a memory as plain files, mapped."""

    def __init__(self, memory: Memory, folder: Path) -> None:
        folder.mkdir()
        sealed = memory.inspect().sealed_tokens
        gists = memory.reader.gists(1, 0, sealed // BLOCK_TOKENS)
        meta = np.stack([gists.offsets, gists.weights], axis=-1)
        for name, rows in (("tokens", memory.tokens(0, sealed)), ("vectors", gists.vectors), ("meta", meta)):
            np.save(folder / f"{name}.npy", rows)
        self.tokens, self.vectors, self.meta = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "vectors", "meta")
        )
        for rows in (self.tokens, self.vectors, self.meta):
            rows.sum()  # every page is in memory

    def open_tokens(self, places: Places) -> object:
        start = BLOCK_TOKENS * int(places[0])
        return np.array(self.tokens[start : start + BLOCK_TOKENS])

    def open_gists(self, places: Places) -> object:
        start = BLOCK_TOKENS * int(places[0])
        stretch = slice(start, start + BLOCK_TOKENS)
        return np.array(self.vectors[stretch]), np.array(self.meta[stretch])

    def gather_gists(self, places: Places) -> object:
        return self.vectors.take(places, axis=0), self.meta.take(places, axis=0)

    def gather_mixed(self, places: Places) -> object:
        nodes, positions = mixed(places)
        return self.vectors.take(nodes, axis=0), self.meta.take(nodes, axis=0), self.tokens.take(positions)


class Read:
    """The same through the memory."""

    def __init__(self, reader: TreeReader) -> None:
        self._reader = reader

    def open_tokens(self, places: Places) -> object:
        start = BLOCK_TOKENS * int(places[0])
        return self._reader.token_batch([(start, start + BLOCK_TOKENS)])

    def open_gists(self, places: Places) -> object:
        children = BLOCK_TOKENS * int(places[0]) + np.arange(BLOCK_TOKENS)
        return self._reader.gist_batch(np.ones(BLOCK_TOKENS, np.int64), children)

    def gather_gists(self, places: Places) -> object:
        return self._reader.gist_batch(np.ones(len(places), np.int64), places)

    def gather_mixed(self, places: Places) -> object:
        nodes, positions = mixed(places)
        return self._reader.gist_batch(np.ones(len(nodes), np.int64), nodes), self._reader.tokens_at(positions)


def mixed(places: Places) -> tuple[Places, Places]:
    """Half of the places as nodes; of the others as many blocks as have half of the rows, as positions."""
    half = len(places) // 2
    blocks = places[half : half + half // BLOCK_TOKENS]
    return places[:half], (blocks[:, None] * BLOCK_TOKENS + np.arange(BLOCK_TOKENS)).reshape(-1)


def measure(memory: Memory, folder: Path, num_expands: int, num_gathers: int) -> list[dict[str, object]]:
    mapped, read = Mapped(memory, folder), Read(memory.reader)
    num_nodes, dim = len(mapped.vectors), memory.info.dim
    random = np.random.default_rng(0)
    rows = []
    for name, what, num_places, limit, repeats, target in (
        ("open_tokens", "expand to 32 tokens", 1, num_nodes, num_expands, AT_MOST),
        ("open_gists", "expand to 32 gists", 1, num_nodes // BLOCK_TOKENS, num_expands, AT_MOST),
        ("gather_mixed", "gather of 4,096 rows, gists and tokens", WINDOW_ROWS, num_nodes, num_gathers, AT_MOST),
        ("gather_gists", "gather of 4,096 gists", WINDOW_ROWS, num_nodes, num_gathers, None),
    ):
        asked = [random.integers(0, limit, num_places) for _ in range(repeats)]
        ours, map_ = in_turns(getattr(read, name), getattr(mapped, name), asked)
        rows.append(
            row(
                f"{what}, {dim} values: memory / memory map",
                ours / map_,
                "x",
                at_most=target,
                memory_us=1e6 * ours,
                map_us=1e6 * map_,
                repeats=repeats,
                history=format_count(memory.num_tokens),
            )
        )
    return rows


def in_turns(ours: Work, mapped: Work, asked: list[Places]) -> tuple[float, float]:
    """Median seconds of both, on each of the places once ours first and once the map first; a first round warms up."""
    seconds: dict[Work, list[float]] = {ours: [], mapped: []}
    for is_warm in (False, True):
        for number, places in enumerate(asked):
            for work in (ours, mapped) if number % 2 else (mapped, ours):
                began = time.perf_counter()
                work(places)
                if is_warm:
                    seconds[work].append(time.perf_counter() - began)
    return statistics.median(seconds[ours]), statistics.median(seconds[mapped])


if __name__ == "__main__":
    main()
