"""The doubles obey the same suites as the real parts, and fail where they are told to."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import CorruptionError, MemoryReadOnlyError, StorageFullError
from megacontext.testing.array_store_suite import TOKENS, ArrayStoreSuite, example_rows
from megacontext.testing.blob_store_suite import BlobStoreSuite, LongBlobSuite
from megacontext.testing.catalog_suite import EXAMPLE_INFO, CatalogSuite
from megacontext.testing.memory_arrays import MemoryArrays, MemoryBlobs
from megacontext.testing.memory_catalog import MemoryCatalog
from megacontext.testing.search_suite import SearchSuite


class TestMemoryArrays(ArrayStoreSuite):
    @pytest.fixture
    def store(self) -> MemoryArrays:
        return MemoryArrays()

    @pytest.fixture
    def objects(self, store: MemoryArrays) -> dict[str, bytes]:
        return store.layout


class TestMemoryBlobs(BlobStoreSuite, LongBlobSuite):
    @pytest.fixture
    def blobs(self) -> MemoryBlobs:
        return MemoryBlobs()


class TestMemoryCatalog(CatalogSuite):
    @pytest.fixture
    def catalog(self) -> MemoryCatalog:
        return MemoryCatalog(EXAMPLE_INFO)


class TestMemorySearch(SearchSuite):
    @pytest.fixture
    def catalog(self) -> MemoryCatalog:
        return MemoryCatalog(EXAMPLE_INFO)


def test_full_stores_refuse_and_keep_what_they_had() -> None:
    arrays = MemoryArrays(capacity_bytes=1024)
    arrays.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
    arrays.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
    with pytest.raises(StorageFullError):
        arrays.write_shard(TOKENS, 1, example_rows(TOKENS, 1))
    np.testing.assert_array_equal(arrays.read_shard(TOKENS, 0), example_rows(TOKENS, 0))

    blobs = MemoryBlobs(capacity_bytes=10)
    digest = blobs.put(b"12345678")
    with pytest.raises(StorageFullError):
        blobs.put(b"abc")
    assert list(blobs.digests()) == [digest]

    catalog = MemoryCatalog(EXAMPLE_INFO)
    catalog.is_full = True
    with pytest.raises(StorageFullError), catalog.write() as writer:
        writer.append_tail(0, np.zeros(3, dtype=np.uint32))
    assert catalog.state().num_tokens == 0


def test_a_lost_shard_is_corruption_until_written_again() -> None:
    arrays = MemoryArrays()
    arrays.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
    arrays.lose(TOKENS, 0)
    with pytest.raises(CorruptionError, match="lod0/c/0"):
        arrays.read(TOKENS, 0, 1)


def test_a_reopened_catalog_continues_and_a_read_only_one_does_not() -> None:
    catalog = MemoryCatalog(EXAMPLE_INFO)
    with catalog.write() as writer:
        writer.append_tail(0, np.arange(5, dtype=np.uint32))
    catalog.close()
    later = catalog.reopened()
    assert later.state().num_tokens == 5
    later.is_read_only = True
    with pytest.raises(MemoryReadOnlyError), later.write():
        pass
