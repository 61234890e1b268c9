"""How fast text comes in: tokens per second with mean gists, and the storage part against a plain file.

End to end is files on disk to a memory on disk: reading, tokenizing, index, provenance, sealing, gists on all levels,
synced. The storage part is the same tokens and gists, already made, through the array store alone, against one plain
file of the same bytes, written and synced segment by segment. python benchmarks/bulk_ingest.py --out benchmarks/results
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from histories import real_tokens
from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.library import assemble_library
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes, token_spec
from megacontext.memory.shards import WRITE_AHEAD, write_shards
from megacontext.ports.catalog import MemoryInfo
from megacontext.runtime.assembly import open as open_memory
from megacontext.storage.arrays import TensorStoreArrays
from record import parser, record, row

# A million tokens are 16 ms for a plain file on a fast disk: too little to tell a ratio by.
STORAGE_TOKENS = 4_000_000


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--folder", type=Path, help="where the disk is to be measured (default: temporary files)")
    given = arguments.parse_args()
    handle = BaseHandle("reference")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        sources = folder / "sources"
        sources.mkdir()
        for number, text in enumerate(assemble_library(handle.codec, num_tokens=given.tokens, seed=0).texts):
            (sources / f"{number:04}.txt").write_text(text.text, encoding="utf-8")
        runs = [ingest(folder / f"{number}.mc", sources, handle) for number in range(given.rounds)]
        rows = [ingest_figure(runs), encoding_figure(sources, handle)]
        rows += storage_figures(folder, handle, STORAGE_TOKENS, given.rounds)
    record("bulk_ingest", rows, given.out)


def ingest(path: Path, sources: Path, handle: BaseHandle) -> tuple[int, float, float, int]:
    """Tokens, seconds and processor seconds of one ingest of everything, and bytes per token on disk times tokens."""
    with open_memory(path, base=handle, create=True, gister="mean") as memory:
        began, worked = time.perf_counter(), time.process_time()
        report = memory.ingest(sources)
        seconds, busy = time.perf_counter() - began, time.process_time() - worked
        assert report.num_tokens == memory.num_tokens
        assert not report.failures
        assert not report.deferred
        return report.num_tokens, seconds, busy, memory.inspect().num_bytes


def ingest_figure(runs: list[tuple[int, float, float, int]]) -> dict[str, object]:
    speeds = [num_tokens / seconds for num_tokens, seconds, _, _ in runs]
    num_tokens, _, busy, num_bytes = runs[0]
    return row(
        "ingest of files with mean gists",
        statistics.median(speeds),
        "tokens/s",
        at_least=200_000,
        tokens=num_tokens,
        rounds=len(runs),
        slowest=min(speeds),
        fastest=max(speeds),
        processor_us_per_token=1e6 * busy / num_tokens,
        processors=os.cpu_count(),
        load_average=os.getloadavg()[0],
        bytes_per_token=num_bytes / num_tokens,
    )


def encoding_figure(sources: Path, handle: BaseHandle) -> dict[str, object]:
    """The tokenizer alone, which bounds everything."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(sources.iterdir())]
    pieces = [text[start : start + 16_384] for text in texts for start in range(0, len(text), 16_384)]
    began = time.perf_counter()
    num_tokens = sum(len(encoded.token_ids) for encoded in handle.codec.encode_batch(pieces))
    return row("tokenizer alone, same text", num_tokens / (time.perf_counter() - began), "tokens/s")


def storage_figures(folder: Path, handle: BaseHandle, num_tokens: int, num_rounds: int) -> list[dict[str, object]]:
    """Whole segments of tokens and their level-1 gists through the array store, in turn with a plain file."""
    info = memory_info(handle)
    num_segments = num_tokens // info.segment_tokens
    tokens = real_tokens(handle, num_segments * info.segment_tokens).reshape(num_segments, -1)
    shape = (shard_nodes(info), info.gist_width)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(*shape, info.dim)).astype(np.float16)
    meta = random.normal(size=(*shape, 2)).astype(np.float32)
    stored, plain = [], []
    for number in range(num_rounds):
        began = time.perf_counter()
        arrays = TensorStoreArrays(folder / f"store{number}")
        for first in range(0, num_segments, WRITE_AHEAD):
            ahead = range(first, min(first + WRITE_AHEAD, num_segments))
            write_shards(arrays, [(token_spec(info), segment, tokens[segment]) for segment in ahead])
            gists = ((gist_spec(info, 1), vectors), (meta_spec(info, 1), meta))  # in flight together, as sealing does
            write_shards(arrays, [(spec, segment, same) for segment in ahead for spec, same in gists])
        stored.append(time.perf_counter() - began)
        began = time.perf_counter()
        with (folder / f"plain{number}").open("wb") as file:
            for rows in tokens:
                for part in (rows, vectors, meta):
                    file.write(part.tobytes())
                file.flush()
                os.fsync(file.fileno())
        plain.append(time.perf_counter() - began)
    num_bytes = num_segments * (tokens[0].nbytes + vectors.nbytes + meta.nbytes)
    ratio = statistics.median(stored) / statistics.median(plain)
    return [
        row(
            "storage part / plain file of the same bytes",
            ratio,
            "x",
            at_most=5,
            store_s=statistics.median(stored),
            file_s=statistics.median(plain),
            mib=num_bytes / 2**20,
            segments=num_segments,
        )
    ]


def memory_info(handle: BaseHandle) -> MemoryInfo:
    """The shapes of a memory of this base with mean gists."""
    return MemoryInfo(
        block_tokens=32,
        segment_tokens=65_536,
        base_name=handle.info.name,
        base_revision=handle.info.revision,
        base_fingerprint=handle.info.fingerprint,
        vocab_size=handle.info.vocab_size,
        dim=handle.info.dim,
        gister_name="mean",
        gister_version="1",
        gist_width=1,
        created_at=0.0,
    )


if __name__ == "__main__":
    main()
