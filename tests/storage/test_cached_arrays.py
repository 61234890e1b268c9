"""A store with a cache in front: as every store, within its limit, and never behind what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from tests.storage.test_arrays import Objects, TensorStoreSuite

from megacontext.errors import StorageTimeoutError
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.cached_arrays import CachedArrays, cached_store
from megacontext.testing.array_store_suite import GISTS, TOKENS, example_rows
from megacontext.testing.memory_arrays import MemoryArrays
from megacontext.units import KIB, MIB


class CachedSuite(TensorStoreSuite):
    @pytest.fixture
    def objects(self, store: CachedArrays) -> Objects:
        assert isinstance(store._store, TensorStoreArrays)
        return Objects(store._store)


class TestRoomForAll(CachedSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> CachedArrays:
        return cached_store(tmp_path, cache_bytes=MIB)


class TestRoomForLittle(CachedSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> CachedArrays:
        return cached_store(tmp_path, cache_bytes=2 * KIB)


class TestRoomForNothing(CachedSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> CachedArrays:
        return cached_store(tmp_path, cache_bytes=0)


class CountedArrays(MemoryArrays):
    """Counts rows that are read, and can be told what to do while it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_rows = 0
        self.meanwhile = lambda: None

    def read_many(self, spec, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        self.num_rows += sum(stop - start for start, stop in spans)
        rows = super().read_many(spec, spans)
        self.meanwhile()
        return rows


@pytest.fixture
def stored() -> CountedArrays:
    store = CountedArrays()
    for shard in range(4):
        store.write_shard(GISTS, shard, example_rows(GISTS, shard))
        store.write_shard(TOKENS, shard, example_rows(TOKENS, shard))
    return store


def test_what_was_read_is_not_read_again(stored: CountedArrays) -> None:
    store = CachedArrays(stored, cache_bytes=MIB)
    rows = np.array([5, 100, 6, 200])
    for _ in range(3):
        store.gather(GISTS, rows)
        store.read(GISTS, 101, 104)
        store.read_many(GISTS, [(1, 3), (96, 112)])
    assert stored.num_rows == 3 * GISTS.chunk_rows


def test_any_mixture_of_reads_is_right_in_any_room(stored: CountedArrays) -> None:
    whole = {spec: np.concatenate([example_rows(spec, shard) for shard in range(4)]) for spec in (GISTS, TOKENS)}
    random = np.random.default_rng(0)
    for cache_bytes in (700, 2 * KIB, 5 * KIB, 9 * KIB, MIB):
        store = CachedArrays(stored, cache_bytes=cache_bytes)
        for _ in range(300):
            spec = (GISTS, TOKENS)[random.integers(2)]
            first, last = np.sort(random.integers(0, 4 * spec.shard_rows, 2)).tolist()
            rows = random.integers(0, 4 * spec.shard_rows, random.integers(1, 9))
            np.testing.assert_array_equal(store.gather(spec, rows), whole[spec][rows])
            np.testing.assert_array_equal(store.read(spec, first, last), whole[spec][first:last])
            spans = [(first, last), (7, 7), (int(rows[0]), int(rows[0]) + 1)]
            for span, got in zip(spans, store.read_many(spec, spans), strict=True):
                np.testing.assert_array_equal(got, whole[spec][slice(*span)])
            assert store._pool.num_bytes <= cache_bytes


def test_a_long_read_leaves_the_rest_where_it_is(stored: CountedArrays) -> None:
    store = CachedArrays(stored, cache_bytes=3 * KIB)
    store.read(TOKENS, 0, 10)
    store.read(GISTS, 0, 256)
    before = stored.num_rows
    store.read(TOKENS, 0, 10)
    assert stored.num_rows == before


def test_what_is_rewritten_while_it_is_read_is_not_kept(stored: CountedArrays) -> None:
    store = CachedArrays(stored, cache_bytes=MIB)

    def rewrite() -> None:
        stored.meanwhile = lambda: None
        store.write_shard(GISTS, 0, example_rows(GISTS, 9))

    stored.meanwhile = rewrite
    store.gather(GISTS, np.array([20, 30]))
    np.testing.assert_array_equal(store.gather(GISTS, np.array([20, 30])), example_rows(GISTS, 9)[[20, 30]])
    np.testing.assert_array_equal(store.read(GISTS, 20, 22), example_rows(GISTS, 9)[20:22])


def test_a_write_that_failed_is_looked_at_again(stored: CountedArrays) -> None:
    """What lies there after it, nobody knows."""
    store = CachedArrays(stored, cache_bytes=MIB)
    store.read(GISTS, 20, 22)

    def half_written(spec, shard, rows) -> None:
        MemoryArrays.write_shard(stored, spec, shard, rows)
        raise OSError("lost power")

    stored.write_shard = half_written
    with pytest.raises(OSError, match="lost power"):
        store.write_shard(GISTS, 0, example_rows(GISTS, 9))
    np.testing.assert_array_equal(store.read(GISTS, 20, 22), example_rows(GISTS, 9)[20:22])


def test_another_stores_rewriting_is_seen_once_it_is_forgotten(tmp_path: Path) -> None:
    writer, reader = cached_store(tmp_path, cache_bytes=MIB), cached_store(tmp_path, cache_bytes=MIB)
    writer.write_shard(GISTS, 0, example_rows(GISTS, 0))
    reader.gather(GISTS, np.array([20, 30]))
    writer.write_shard(GISTS, 0, example_rows(GISTS, 9))
    reader.forget()
    np.testing.assert_array_equal(reader.gather(GISTS, np.array([20, 30])), example_rows(GISTS, 9)[[20, 30]])


def test_threads_read_what_is_there(stored: CountedArrays) -> None:
    store = CachedArrays(stored, cache_bytes=5 * KIB)
    whole, wrong = np.concatenate([example_rows(GISTS, shard) for shard in range(4)]), []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(300):
            rows = random.integers(0, len(whole), 4)
            if not np.array_equal(store.gather(GISTS, rows), whole[rows]):
                wrong.append(rows)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_could_be_read_once_can_be_read_from_a_silent_store(stored: CountedArrays) -> None:
    store = CachedArrays(stored, cache_bytes=MIB)
    spans = [(0, 3), (60, 70), (130, 130), (130, 131)]
    stored.silent.add((GISTS.name, 1))
    found = store.read_each(GISTS, spans)
    assert [type(rows) for rows in found] == [np.ndarray, StorageTimeoutError, np.ndarray, np.ndarray]
    stored.silent |= {(GISTS.name, shard) for shard in range(4)}
    for rows, (start, stop) in zip(store.read_each(GISTS, spans), spans, strict=True):
        if (start, stop) != (60, 70):
            np.testing.assert_array_equal(rows, store.read(GISTS, start, stop))
    assert isinstance(store.read_each(GISTS, [(16, 17)])[0], StorageTimeoutError)
    assert isinstance(CachedArrays(stored, cache_bytes=0).read_each(GISTS, [(0, 1)])[0], StorageTimeoutError)


def test_only_what_is_absent_is_fetched_ahead(stored: CountedArrays) -> None:
    store = CachedArrays(stored, cache_bytes=MIB)
    store.read(GISTS, 0, 20)
    store.prefetch(GISTS, [(3, 4), (30, 33), (5, 5), (200, 201)])
    assert stored.ahead == [(GISTS.name, 30, 33), (GISTS.name, 200, 201)]
    store.prefetch(GISTS, [])
