"""Names and shapes of what a memory keeps: its locks, and the arrays of each level.

Every array grows by whole shards of one segment: ``segment_tokens`` rows of tokens, ``segment_tokens / K`` rows of
gists, on whatever level.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.ports.arrays import ArraySpec
from megacontext.ports.catalog import CatalogState, MemoryInfo
from megacontext.tree.geometry import TreeGeometry
from megacontext.values import LARGEST

__all__ = [
    "LOCK_FILE",
    "REGIST_LOCK_FILE",
    "REWRITE_LOCK_FILE",
    "SealedArray",
    "gist_spec",
    "meta_spec",
    "sealed_arrays",
    "shard_nodes",
    "shards_in_use",
    "token_spec",
]

LOCK_FILE = "writer.lock"
REWRITE_LOCK_FILE = "rewrite.lock"
REGIST_LOCK_FILE = "regist.lock"

_TOKEN_CHUNK = 4096  # rows of one compressed chunk: small reads stay small, zstd still sees enough


def shard_nodes(info: MemoryInfo) -> int:
    """Rows of one shard on every level >= 1."""
    return info.segment_tokens // info.block_tokens


def token_spec(info: MemoryInfo) -> ArraySpec:
    """``lod0``: token ids; the chunk is the largest whole number of blocks up to 4,096 that divides a segment."""
    chunk = max(
        rows
        for rows in range(info.block_tokens, min(_TOKEN_CHUNK, info.segment_tokens) + 1, info.block_tokens)
        if info.segment_tokens % rows == 0
    )
    return ArraySpec(
        name="lod0", row_shape=(), dtype="uint32", shard_rows=info.segment_tokens, chunk_rows=chunk, compress=True
    )


def gist_spec(info: MemoryInfo, level: int) -> ArraySpec:
    """``lod{level}``: gist vectors [n, r, d]; one chunk is one sibling set."""
    return ArraySpec(
        name=f"lod{level}",
        row_shape=(info.gist_width, info.dim),
        dtype="float16",
        shard_rows=shard_nodes(info),
        chunk_rows=info.block_tokens,
    )


def meta_spec(info: MemoryInfo, level: int) -> ArraySpec:
    """``meta{level}``: (offset, weight) of every gist vector [n, r, 2]."""
    return ArraySpec(
        name=f"meta{level}",
        row_shape=(info.gist_width, 2),
        dtype="float32",
        shard_rows=shard_nodes(info),
        chunk_rows=info.block_tokens,
    )


@dataclass(frozen=True, kw_only=True)
class SealedArray:
    """An array that holds shards which the catalog declares sealed, and the tokens below them."""

    spec: ArraySpec
    num_shards: int
    num_tokens: int


def sealed_arrays(info: MemoryInfo, state: CatalogState) -> list[SealedArray]:
    """All arrays that a memory reads from, tokens first."""
    counts = [(token_spec(info), state.sealed_tokens, 1)]
    for level, num_nodes in sorted(state.sealed_nodes.items()):
        counts += [(spec(info, level), num_nodes, info.block_tokens**level) for spec in (gist_spec, meta_spec)]
    return [
        SealedArray(spec=spec, num_shards=num_rows // spec.shard_rows, num_tokens=num_rows * width)
        for spec, num_rows, width in counts
        if num_rows >= spec.shard_rows
    ]


def shards_in_use(info: MemoryInfo, state: CatalogState) -> dict[str, int]:
    """How many shards the catalog declares of each array that a memory could have, by name."""
    levels = range(1, TreeGeometry(info.block_tokens).num_levels(LARGEST))
    every = [token_spec(info), *(spec(info, level) for level in levels for spec in (gist_spec, meta_spec))]
    return {spec.name: 0 for spec in every} | {a.spec.name: a.num_shards for a in sealed_arrays(info, state)}
