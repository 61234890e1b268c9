"""Blobs in files: as every blob store, and in what is their own."""

from __future__ import annotations

import itertools
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from megacontext.errors import CorruptionError, MemoryReadOnlyError, StorageError, StorageFullError
from megacontext.storage.blobs import FileBlobs
from megacontext.testing.blob_store_suite import BlobStoreSuite, LongBlobSuite

TEXT = b"Words, words, words. " * 200


class TestFileBlobs(BlobStoreSuite, LongBlobSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FileBlobs:
        return FileBlobs(tmp_path)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_blob_is_a_compressed_file_named_by_its_content(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(TEXT)
    assert files(tmp_path) == [blobs.object_name(digest)] == [f"raw/{digest[:2]}/{digest}.zst"]
    assert blobs.num_bytes() < len(TEXT) // 10


def test_a_flipped_bit_never_gives_other_bytes(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(TEXT + os.urandom(200))
    path = tmp_path / blobs.object_name(digest)
    intact, content = path.read_bytes(), blobs.get(digest)
    places = random.Random(0)
    num_found = 0
    for _ in range(200):
        flipped = bytearray(intact)
        flipped[places.randrange(len(intact))] ^= 1 << places.randrange(8)
        path.write_bytes(flipped)
        try:
            assert blobs.get(digest) == content
        except CorruptionError:
            num_found += 1
    assert num_found > 150


@pytest.mark.parametrize("length", [0, 5, 50])
def test_a_blob_cut_short_is_found(tmp_path: Path, length: int) -> None:
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(os.urandom(500))
    path = tmp_path / blobs.object_name(digest)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptionError, match=digest):
        blobs.get(digest)


@pytest.mark.parametrize("in_the_way", ["folder", "file"])
def test_what_stands_in_the_place_of_a_blob_is_named_and_left_there(tmp_path: Path, in_the_way: str) -> None:
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(TEXT)
    path = tmp_path / blobs.object_name(digest)
    path.unlink()
    if in_the_way == "folder":
        (path / "mine").mkdir(parents=True)
    else:
        path.parent.rmdir()
        path.parent.write_bytes(b"mine")
    kept = sorted(tmp_path.rglob("*"))
    name = blobs.object_name(digest)
    said = rf"^{name} (is a folder .*|lies below a file, .*): remove what stands .* 'megacontext check --repair'$"
    for read in (blobs.get, lambda digest: blobs.part(digest, 0, 5), lambda digest: list(blobs.pieces(digest))):
        with pytest.raises(StorageError, match=said):
            read(digest)
    with pytest.raises(StorageError, match=said):
        blobs.delete(digest)
    assert sorted(tmp_path.rglob("*")) == kept


def test_storing_the_same_bytes_again_heals(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(TEXT)
    (tmp_path / blobs.object_name(digest)).write_bytes(b"damaged")
    assert blobs.put(TEXT) == digest
    assert blobs.get(digest) == TEXT


def test_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    digest = blobs.put(TEXT)
    orphan = tmp_path / "raw" / digest[:2] / f".tmp-{digest}"
    orphan.touch()
    assert list(blobs.digests()) == [digest]
    streamed = tmp_path / "raw" / ".tmp-stream-0"
    streamed.write_bytes(b"half of it")
    assert sorted(one.num_bytes for one in blobs.orphans(None)) == [0, 10]
    assert len(blobs.remove_orphans({digest})) == 2
    assert files(tmp_path) == [blobs.object_name(digest)]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ENOSPC", StorageFullError),
        ("EDQUOT", StorageFullError),
        ("EFBIG", StorageFullError),
        ("EROFS", MemoryReadOnlyError),
        ("EIO", StorageError),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception], call: str
) -> None:
    import errno

    blobs = FileBlobs(tmp_path)
    kept = blobs.put(b"kept")

    def fail(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail) if call == "fsync" else patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(error):
            blobs.put_many([TEXT, b"other"])
    assert files(tmp_path) == [blobs.object_name(kept)]
    assert len(blobs.put_many([TEXT, b"other"])) == 2


@pytest.mark.parametrize(("num_bytes", "num_frames"), [(0, 1), (1, 1), (5000, 1), (1 << 20, 1), (2_200_000, 3)])
def test_a_flipped_bit_of_the_table_never_gives_another_part_and_is_found(
    tmp_path: Path, num_bytes: int, num_frames: int
) -> None:
    """Parts come from the whole then, which has a checksum of its own."""
    blobs = FileBlobs(tmp_path)
    content = (random.Random(0).randbytes(1000) * 2200)[:num_bytes]
    start, stop = num_bytes // 2, num_bytes // 2 + 20
    with blobs.stream() as sink:
        sink.write(content)
        digest = sink.finish()
    assert b"".join(blobs.pieces(digest)) == content
    path = tmp_path / blobs.object_name(digest)
    intact = path.read_bytes()
    for place in range(len(intact) - 9 - num_frames * 8 - 8 - 4, len(intact)):
        flipped = bytearray(intact)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with suppress(CorruptionError):  # where what follows the last frame is none any more
            assert blobs.part(digest, start, stop) == content[start:stop]
        with pytest.raises(CorruptionError, match="check --repair"):
            list(blobs.pieces(digest))
    path.write_bytes(intact)
    assert b"".join(blobs.pieces(digest)) == content


@pytest.mark.parametrize("num_bytes", [0, 1, 300])
def test_no_flipped_bit_of_a_short_stream_gives_other_bytes(tmp_path: Path, num_bytes: int) -> None:
    """Every bit of the file, whichever way it is read."""
    blobs = FileBlobs(tmp_path)
    content = TEXT[:num_bytes]
    with blobs.stream() as sink:
        sink.write(content)
        digest = sink.finish()
    path = tmp_path / blobs.object_name(digest)
    intact = path.read_bytes()
    for place, bit in itertools.product(range(len(intact)), range(8)):
        flipped = bytearray(intact)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        for start, stop in ((0, 10), (num_bytes // 3, 2 * num_bytes // 3)):
            with suppress(CorruptionError):
                assert blobs.part(digest, start, stop) == content[start:stop]
        with suppress(CorruptionError):
            assert blobs.get(digest) == content
        with suppress(CorruptionError):
            assert b"".join(blobs.pieces(digest)) == content


def test_a_blob_that_was_put_whole_needs_no_table(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    for data in (b"", b"x", TEXT, TEXT * 1000):
        assert b"".join(blobs.pieces(blobs.put(data))) == data
