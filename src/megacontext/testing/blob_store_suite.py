"""What every BlobStore must do. Subclass it, and give a ``blobs`` fixture."""

from __future__ import annotations

import hashlib

import pytest

from megacontext.errors import CorruptionError
from megacontext.ports.arrays import BlobStore

__all__ = ["BlobStoreSuite"]


class BlobStoreSuite:
    """Fixture ``blobs``: an empty BlobStore."""

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 999, "häuser".encode()], ids=len)
    def test_bytes_come_back(self, blobs: BlobStore, data: bytes) -> None:
        digest = blobs.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert blobs.get(digest) == data

    def test_same_bytes_are_stored_once(self, blobs: BlobStore) -> None:
        digest = blobs.put(b"again" * 100)
        num_bytes = blobs.num_bytes()
        assert blobs.put(b"again" * 100) == digest
        assert blobs.num_bytes() == num_bytes
        assert list(blobs.digests()) == [digest]

    def test_many_at_once(self, blobs: BlobStore) -> None:
        data = [b"%d" % (number % 7) for number in range(20)]
        digests = blobs.put_many(data)
        assert [blobs.get(digest) for digest in digests] == data
        assert list(blobs.digests()) == sorted(set(digests))
        assert blobs.put_many([]) == []

    def test_what_is_not_there_is_an_error(self, blobs: BlobStore) -> None:
        missing = hashlib.sha256(b"never stored").hexdigest()
        with pytest.raises(CorruptionError, match=missing):
            blobs.get(missing)

    def test_deleted_is_gone_and_may_be_deleted_again(self, blobs: BlobStore) -> None:
        kept, gone = blobs.put(b"kept"), blobs.put(b"gone")
        blobs.delete(gone)
        blobs.delete(gone)
        assert list(blobs.digests()) == [kept]
        with pytest.raises(CorruptionError):
            blobs.get(gone)

    def test_nothing_is_orphaned_in_peace(self, blobs: BlobStore) -> None:
        digest = blobs.put(b"data")
        assert blobs.remove_orphans() == 0
        assert blobs.get(digest) == b"data"
