"""Blobs in files: as every blob store, and in what is their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.storage.blobs import FileBlobs
from megacontext.testing.blob_store_suite import BlobStoreSuite


class TestFileBlobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FileBlobs:
        return FileBlobs(tmp_path)
