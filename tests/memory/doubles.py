"""A codec and gisters that are small and exact, and memories made of them: in RAM or on disk.

Also imported by the child processes of some tests, hence a module and not only fixtures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import BaseMismatchError
from megacontext.memory.layout import LOCK_FILE
from megacontext.memory.memory import Memory
from megacontext.ports.catalog import MemoryInfo
from megacontext.ports.gister import GistBatch
from megacontext.ports.text import Encoded
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.blobs import FileBlobs
from megacontext.storage.cached_arrays import cached_store
from megacontext.testing.memory_arrays import MemoryArrays, MemoryBlobs
from megacontext.testing.memory_catalog import MemoryCatalog
from megacontext.units import MIB

__all__ = [
    "BaseMismatchError",
    "FileBlobs",
    "MemoryArrays",
    "MemoryBlobs",
    "MemoryCatalog",
    "SqliteCatalog",
    "TensorStoreArrays",
]

VOCAB = 300


class ByteCodec:
    """One token per UTF-8 byte, so that many tokens cut characters in pieces."""

    vocab_size = VOCAB
    fingerprint = "bytes"

    def encode(self, text: str) -> Encoded:
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
        starts = [place for place, character in enumerate(text) for _ in character.encode()]
        return Encoded(token_ids=ids, char_starts=np.asarray(starts, np.int64))

    def encode_batch(self, texts: list[str]) -> list[Encoded]:
        return [self.encode(text) for text in texts]

    def decode(self, token_ids: np.ndarray) -> str:
        return bytes(int(token) for token in token_ids if token < 256).decode("utf-8", "replace")


class MeanGister:
    """A fixed embedding row per token; the mean of each block."""

    name = "mean"
    gist_width = 1
    context_tokens = 0
    spread = 12**-0.5

    def __init__(self, block_tokens: int = 8, dim: int = 4) -> None:
        self.version = "1"
        self.block_tokens = self.window_tokens = block_tokens
        self.dim = dim

    def from_tokens(self, token_ids: np.ndarray, *, start: int, num_context: int) -> GistBatch:
        rows = np.stack([(token_ids * (i + 7)) % 101 / 101 for i in range(self.dim)], -1)
        return self._mean(rows[num_context:].reshape(-1, self.block_tokens, self.dim), self.block_tokens)

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        rows = children.vectors.astype(np.float64).reshape(-1, self.block_tokens, self.dim)
        return self._mean(rows, self.block_tokens**level)

    def _mean(self, rows: np.ndarray, width: int) -> GistBatch:
        n = len(rows)
        return GistBatch(
            vectors=rows.mean(1, keepdims=True).astype(np.float16),
            offsets=np.full((n, 1), (width - 1) / 2, np.float32),
            weights=np.ones((n, 1), np.float32),
        )


class ContextGister(MeanGister):
    """Gists that depend on all tokens from the context's start on, as a language model's would."""

    name = "context"
    context_tokens = 24

    def __init__(self, block_tokens: int = 8, dim: int = 4) -> None:
        super().__init__(block_tokens, dim)
        self.window_tokens = 5 * block_tokens

    def from_tokens(self, token_ids: np.ndarray, *, start: int, num_context: int) -> GistBatch:
        rows = []
        for place in range(num_context, len(token_ids), self.block_tokens):
            position = start + place
            begin = max(0, position // self.window_tokens * self.window_tokens - self.context_tokens)
            seen = token_ids[begin - start : place + self.block_tokens].astype(np.float64)
            assert begin >= start, "context is missing"
            rows.append([np.sin(seen * (i + 1)).sum() for i in range(self.dim)])
        array = np.asarray(rows).reshape(-1, 1, self.dim)
        return GistBatch(
            vectors=array.astype(np.float16),
            offsets=np.full((len(array), 1), 3, np.float32),
            weights=np.abs(array[..., 0]).astype(np.float32),
        )


def make_info(gister: MeanGister, segment_tokens: int = 512) -> MemoryInfo:
    return MemoryInfo(
        block_tokens=gister.block_tokens,
        segment_tokens=segment_tokens,
        base_name="fake",
        base_revision="",
        base_fingerprint="fake",
        vocab_size=VOCAB,
        dim=gister.dim,
        gister_name=gister.name,
        gister_version=gister.version,
        gist_width=gister.gist_width,
        created_at=0.0,
    )


def make_memory(made_by: MeanGister | None = None, *, segment_tokens: int = 512, **parts: Any) -> Memory:
    """A memory with everything in RAM: K = 8, segments of 512 tokens; ``parts`` replace single parts."""
    gister = made_by or MeanGister()
    defaults: dict[str, Any] = {
        "catalog": MemoryCatalog(make_info(gister, segment_tokens)),
        "arrays": MemoryArrays(),
        "blobs": MemoryBlobs(),
        "codec": ByteCodec(),
        "gister": lambda: gister,
    }
    return Memory(**{**defaults, **parts})


def open_folder(
    folder: Path, gister: MeanGister | None = None, *, segment_tokens: int = 512, read_only: bool = False
) -> Memory:
    """A memory on disk with the real catalog, arrays and blobs; made if it is not there."""
    gister = gister or MeanGister()
    if not folder.exists():
        folder.mkdir(parents=True)
        SqliteCatalog.create(folder, make_info(gister, segment_tokens)).close()
    return Memory(
        catalog=SqliteCatalog.open(folder, read_only=read_only),
        arrays=cached_store(folder, cache_bytes=4 * MIB),
        blobs=FileBlobs(folder),
        codec=ByteCodec(),
        gister=lambda: gister,
        lock_path=folder / LOCK_FILE,
        read_only=read_only,
    )


def contents(memory: Memory) -> dict[str, Any]:
    """Everything that a user can see of a memory, in comparable form."""
    num = memory.num_tokens
    return {
        "tokens": memory.tokens(0, num).tolist(),
        "gists": [
            memory.gists(level, 0, memory.tree.num_nodes(level, num)).tobytes() for level in range(1, memory.num_levels)
        ],
        "sources": [
            (source.uri, source.version, source.kind, source.token_start, source.token_stop, source.role)
            for source in memory.sources()
        ],
        "quotations": [(quote.uri, quote.byte_start, quote.text) for quote in memory.provenance(0, num)],
        "hits": memory.search_hits("needle hay the", limit=1000),
    }
