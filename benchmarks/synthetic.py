"""Memories of any embedding width, made fast: tokens by chance, gists by chance, kept as any memory keeps them.

What reads and bytes cost does not depend on what gists say, and a base of 1,024 dimensions is not at hand everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from megacontext.bases.registry import BaseHandle
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.memory.memory import Memory
from megacontext.ports.catalog import MemoryInfo
from megacontext.ports.gister import GistBatch
from megacontext.storage.blobs import FileBlobs
from megacontext.storage.cached_arrays import cached_store
from megacontext.tree.geometry import TreeGeometry

__all__ = ["ChanceGister", "chance_memory"]

BLOCK_TOKENS = 32
POOL_ROWS = 4_096


class ChanceGister:
    """Vectors from a pool of normally distributed ones, another stretch of it for every call."""

    name, version = "chance", "1"
    gist_width, block_tokens, window_tokens, context_tokens, spread = 1, BLOCK_TOKENS, BLOCK_TOKENS, 0, 0.0

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._random = np.random.default_rng(0)
        self._pool = self._random.normal(size=(POOL_ROWS, 1, dim)).astype(np.float16)

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        return self._batch(len(token_ids) // BLOCK_TOKENS, width=BLOCK_TOKENS)

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        return self._batch(len(children) // BLOCK_TOKENS, width=BLOCK_TOKENS**level)

    def _batch(self, num_nodes: int, *, width: int) -> GistBatch:
        rows = self._random.integers(0, POOL_ROWS) + np.arange(num_nodes)
        return GistBatch(
            vectors=self._pool.take(rows, axis=0, mode="wrap"),
            offsets=np.full((num_nodes, 1), (width - 1) / 2, np.float32),
            weights=np.ones((num_nodes, 1), np.float32),
        )


def chance_memory(
    folder: Path, handle: BaseHandle, token_ids: npt.NDArray[np.uint32], *, dim: int, cache_bytes: int
) -> Memory:
    """A new memory of these tokens with random gists of ``dim`` values, all of them stored."""
    gister = ChanceGister(dim)
    info = MemoryInfo(
        block_tokens=BLOCK_TOKENS,
        segment_tokens=TreeGeometry(BLOCK_TOKENS).segment_tokens,
        base_name=handle.info.name,
        base_revision=handle.info.revision,
        base_fingerprint=handle.info.fingerprint,
        vocab_size=handle.info.vocab_size,
        dim=dim,
        gister_name=gister.name,
        gister_version=gister.version,
        gist_width=1,
        created_at=0.0,
    )
    folder.mkdir()
    memory = Memory(
        catalog=SqliteCatalog.create(folder, info),
        arrays=cached_store(folder, cache_bytes=cache_bytes),
        blobs=FileBlobs(folder),
        codec=handle.codec,
        gister=lambda: gister,
    )
    memory.append(token_ids, source="history")
    memory.store_gists()
    return memory
