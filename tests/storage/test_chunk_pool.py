"""Chunks in memory: which of them stay."""

from __future__ import annotations

import numpy as np

from megacontext.ports.arrays import ArraySpec
from megacontext.storage.chunk_pool import ChunkPool

TOKENS = ArraySpec(name="lod0", row_shape=(), dtype="uint32", shard_rows=256, chunk_rows=64)
GISTS = ArraySpec(name="lod1", row_shape=(1, 8), dtype="float16", shard_rows=64, chunk_rows=16)
CHUNK_BYTES = 256  # of both


def put(pool: ChunkPool, spec: ArraySpec, chunk: int) -> None:
    rows = np.full((spec.chunk_rows, *spec.row_shape), chunk, dtype=spec.dtype)
    pool.put(spec, np.array([chunk]), rows)


def held(pool: ChunkPool, spec: ArraySpec, limit: int) -> list[int]:
    return np.flatnonzero(~pool.missing(spec, np.arange(limit))).tolist()


def test_what_was_read_last_stays() -> None:
    pool = ChunkPool(20 * CHUNK_BYTES)
    for chunk in range(200):
        put(pool, GISTS, chunk)
        assert pool.stretch(GISTS, 0, 1) is not None, "chunk 0 is read all the time"
        assert pool.num_bytes <= 20 * CHUNK_BYTES
    kept = held(pool, GISTS, 200)
    assert kept[0] == 0
    assert kept[1:] == list(range(201 - len(kept), 200))
    assert len(kept) > 5


def test_one_array_makes_room_for_another() -> None:
    pool = ChunkPool(20 * CHUNK_BYTES)
    for chunk in range(15):
        put(pool, TOKENS, chunk)
    for chunk in range(12):
        put(pool, GISTS, chunk)
    assert len(held(pool, GISTS, 12)) == 12
    assert pool.num_bytes <= 20 * CHUNK_BYTES
    for chunk in held(pool, TOKENS, 15):
        assert (pool.stretch(TOKENS, chunk * 64, chunk * 64 + 3) == chunk).all()


def test_a_chunk_whose_table_is_larger_than_the_room_leaves_everything_as_it_is() -> None:
    """The table of an array grows with its length: little room holds nothing from far out in a long history."""
    pool = ChunkPool(20 * CHUNK_BYTES)
    put(pool, GISTS, 3)
    far = 1 << 20
    pool.put(GISTS, np.array([far]), np.zeros((16, 1, 8), np.float16))
    assert pool.missing(GISTS, np.array([far])).all()
    assert pool.stretch(GISTS, 16 * far, 16 * far + 1) is None
    assert held(pool, GISTS, 10) == [3]
    assert pool.num_bytes <= 20 * CHUNK_BYTES


def test_dropped_chunks_leave_room() -> None:
    pool = ChunkPool(20 * CHUNK_BYTES)
    for chunk in range(8):
        put(pool, GISTS, chunk)
    before = pool.num_bytes
    pool.drop(GISTS, 32, 64)
    assert held(pool, GISTS, 8) == [0, 1, 4, 5, 6, 7]
    put(pool, GISTS, 3)
    put(pool, GISTS, 2)
    assert pool.num_bytes == before
    assert [float(pool.rows(GISTS, np.array([16 * chunk]))[0, 0, 0]) for chunk in range(8)] == list(range(8))
    pool.drop(GISTS, 64, 10_000)
    pool.drop(TOKENS, 0, 64)
    assert held(pool, GISTS, 8) == [0, 1, 2, 3]
