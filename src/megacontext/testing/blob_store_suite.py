"""What every BlobStore must do, and one that keeps long blobs. Subclass, and give a ``blobs`` fixture."""

from __future__ import annotations

import hashlib
import random

import pytest

from megacontext.errors import CorruptionError
from megacontext.ports.arrays import BlobStore, SupportsLongBlobs

__all__ = ["BlobStoreSuite", "LongBlobSuite"]


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
        assert blobs.remove_orphans(None) == blobs.remove_orphans({digest}) == []
        assert blobs.get(digest) == b"data"

    def test_blobs_that_nothing_names_are_orphans(self, blobs: BlobStore) -> None:
        kept, gone = blobs.put(b"kept"), blobs.put(b"gone" * 100)
        num_bytes = blobs.num_bytes()
        (orphan,) = blobs.orphans({kept})
        assert orphan.object_name == blobs.object_name(gone)
        assert blobs.get(gone) == b"gone" * 100
        assert blobs.remove_orphans({kept, "0" * 64}) == [orphan]
        assert blobs.num_bytes() == num_bytes - orphan.num_bytes
        assert list(blobs.digests()) == [kept]


class LongBlobSuite:
    """Fixture ``blobs``: an empty BlobStore with the powers of SupportsLongBlobs."""

    @pytest.mark.parametrize("num_bytes", [0, 1, 1 << 20, (5 << 20) + 7], ids=str)
    def test_a_stream_is_a_blob_like_any_other(self, blobs: BlobStore, num_bytes: int) -> None:
        assert isinstance(blobs, SupportsLongBlobs)
        data = random.Random(0).randbytes(num_bytes)
        with blobs.stream() as sink:
            for start in range(0, num_bytes, 300_001):
                sink.write(data[start : start + 300_001])
            digest = sink.finish()
        assert digest == hashlib.sha256(data).hexdigest()
        assert list(blobs.digests()) == [digest]
        assert blobs.get(digest) == data
        assert b"".join(blobs.pieces(digest)) == data
        for start, stop in ((0, 10), (num_bytes // 2, num_bytes // 2 + 2_000_000), (num_bytes - 1, num_bytes), (3, 3)):
            assert blobs.part(digest, max(0, start), stop) == data[max(0, start) : stop]
        assert blobs.put(data) == digest
        blobs.delete(digest)
        assert list(blobs.digests()) == []

    def test_parts_of_a_blob_that_was_put_whole(self, blobs: BlobStore) -> None:
        assert isinstance(blobs, SupportsLongBlobs)
        digest = blobs.put(b"one and two")
        assert blobs.part(digest, 4, 7) == b"and"
        assert b"".join(blobs.pieces(digest)) == b"one and two"

    def test_what_is_not_finished_leaves_nothing(self, blobs: BlobStore) -> None:
        assert isinstance(blobs, SupportsLongBlobs)
        kept = blobs.put(b"kept")
        num_bytes = blobs.num_bytes()
        with blobs.stream() as sink:
            sink.write(b"half" * 999_999)
        assert list(blobs.digests()) == [kept]
        assert (blobs.num_bytes(), blobs.remove_orphans(None)) == (num_bytes, [])

    def test_two_streams_at_once(self, blobs: BlobStore) -> None:
        assert isinstance(blobs, SupportsLongBlobs)
        with blobs.stream() as first, blobs.stream() as second:
            first.write(b"one")
            second.write(b"two")
            digests = [first.finish(), second.finish()]
        assert [blobs.get(digest) for digest in digests] == [b"one", b"two"]

    def test_what_is_missing_cannot_be_read_in_pieces(self, blobs: BlobStore) -> None:
        assert isinstance(blobs, SupportsLongBlobs)
        missing = hashlib.sha256(b"never stored").hexdigest()
        with pytest.raises(CorruptionError, match=missing):
            list(blobs.pieces(missing))
        with pytest.raises(CorruptionError, match=missing):
            blobs.part(missing, 0, 1)
