"""The array store on TensorStore: as every store, and in what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.storage.arrays import TensorStoreArrays
from megacontext.testing.array_store_suite import ArrayStoreSuite


class TestFiles(ArrayStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> TensorStoreArrays:
        return TensorStoreArrays(tmp_path / "a memory.mc")


class TestFilesWithoutCache(ArrayStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> TensorStoreArrays:
        return TensorStoreArrays(tmp_path.as_uri(), cache_bytes=0)


class TestMemory(ArrayStoreSuite):
    @pytest.fixture
    def store(self) -> TensorStoreArrays:
        return TensorStoreArrays("memory://here/there")
