"""Raw sources as content-addressed, compressed files: ``raw/ab/<sha256>.zst``.

A blob that comes in a stream is written as frames (`blob_frames`), so that no length of it has to fit into memory.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import zstandard

from megacontext.errors import CorruptionError
from megacontext.ports.arrays import Orphan
from megacontext.storage.blob_frames import FRAME_BYTES, FrameWriter, has_table, lacks_table, read_part
from megacontext.storage.faults import os_faults
from megacontext.storage.listing import file_sizes
from megacontext.storage.syncing import sync

__all__ = ["BLOBS_FOLDER", "FileBlobs"]

BLOBS_FOLDER = "raw"
_SUFFIX = ".zst"
_TEMPORARY = ".tmp-"
_STREAM = "stream"
_LEVEL = 3


class FileBlobs:
    """BlobStore in a memory's folder.

    A blob is written to a temporary file, synced, renamed and its folder synced, so a name that exists is complete.
    """

    def __init__(self, memory_folder: Path) -> None:
        self._memory_folder = memory_folder
        self._folder = memory_folder / BLOBS_FOLDER
        self._streams: set[int] = set()  # numbers of those that are open

    def put(self, data: bytes) -> str:
        return self.put_many([data])[0]

    def put_many(self, blobs: Sequence[bytes]) -> list[str]:
        """Written first and synced afterwards: one journal commit of the file system serves them all."""
        digests = [hashlib.sha256(data).hexdigest() for data in blobs]
        missing = {digest: data for digest, data in zip(digests, blobs, strict=True) if not self._is_intact(digest)}
        temporaries: dict[str, Path] = {}
        with os_faults("storing raw sources"):
            try:
                new_folders = {self._make_folder(self._path(digest).parent) for digest in missing}
                for digest, data in missing.items():
                    temporaries[digest] = self._temporary(digest)
                    temporaries[digest].write_bytes(zstandard.ZstdCompressor(level=_LEVEL).compress(data))
                for path in temporaries.values():
                    sync(path)
                for digest in list(temporaries):
                    temporaries.pop(digest).replace(self._path(digest))
                for folder in {self._path(digest).parent for digest in missing}:
                    sync(folder)
                for folder in {parent for parents in new_folders for parent in parents}:
                    sync(folder)
            finally:
                for path in temporaries.values():
                    path.unlink(missing_ok=True)
        return digests

    @contextmanager
    def stream(self) -> Iterator[_FileSink]:
        number = next(number for number in itertools.count() if number not in self._streams)
        with os_faults("storing raw sources"):
            for folder in self._make_folder(self._folder):
                sync(folder)
            # numbered from 0, so that the next writer overwrites what a killed one left
            temporary = self._folder / f"{_TEMPORARY}{_STREAM}-{number}"
            file = temporary.open("wb")
        self._streams.add(number)
        try:
            yield _FileSink(self, file, temporary)
        finally:
            self._streams.discard(number)
            file.close()
            temporary.unlink(missing_ok=True)

    def get(self, digest: str) -> bytes:
        return b"".join(self._contents(digest))

    def pieces(self, digest: str) -> Iterator[bytes]:
        num_bytes = 0
        for piece in self._contents(digest):
            num_bytes += len(piece)
            yield piece
        name = self.object_name(digest)
        with os_faults(f"reading {name}", name), _opened(self._path(digest)) as file:
            if lacks_table(file, num_bytes):
                raise CorruptionError(f"{name} has a damaged table of its frames; run 'megacontext check --repair'")

    def _contents(self, digest: str) -> Iterator[bytes]:
        name = self.object_name(digest)
        found = hashlib.sha256()
        try:
            with os_faults(f"reading {name}", name), _opened(self._path(digest)) as file:
                # a stream: a flipped size in the header must not allocate what it says
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                while piece := reader.read(FRAME_BYTES):
                    found.update(piece)
                    yield piece
        except zstandard.ZstdError as error:
            raise CorruptionError(
                f"{name} cannot be decompressed ({error}); run 'megacontext check --repair'"
            ) from error
        if found.hexdigest() != digest:
            raise CorruptionError(f"{name} fails its checksum; run 'megacontext check --repair'")

    def part(self, digest: str, start: int, stop: int) -> bytes:
        name = self.object_name(digest)
        try:
            with os_faults(f"reading {name}", name), _opened(self._path(digest)) as file:
                found = read_part(file, start, stop)
        except zstandard.ZstdError as error:
            raise CorruptionError(
                f"{name} cannot be decompressed ({error}); run 'megacontext check --repair'"
            ) from error
        return self.get(digest)[start:stop] if found is None else found

    def reads_parts(self, digest: str) -> bool:
        name = self.object_name(digest)
        with os_faults(f"reading {name}", name), _opened(self._path(digest)) as file:
            return has_table(file)

    def digests(self) -> Iterator[str]:
        for path in sorted(self._folder.glob(f"??/*{_SUFFIX}")):
            yield path.name.removesuffix(_SUFFIX)

    def delete(self, digest: str) -> None:
        name = self.object_name(digest)
        with os_faults(f"deleting {name}", name):
            self._path(digest).unlink(missing_ok=True)

    def object_name(self, digest: str) -> str:
        return f"{BLOBS_FOLDER}/{digest[:2]}/{digest}{_SUFFIX}"

    def num_bytes(self) -> int:
        return sum(num_bytes for _, num_bytes in file_sizes(self._folder))

    def orphans(self, kept: AbstractSet[str] | None) -> list[Orphan]:
        with os_faults("reading sizes of raw sources"):
            return [
                Orphan(object_name=path.relative_to(self._memory_folder).as_posix(), num_bytes=num_bytes)
                for path, num_bytes in file_sizes(self._folder)
                if self._is_orphan(path, kept)
            ]

    def remove_orphans(self, kept: AbstractSet[str] | None) -> list[Orphan]:
        orphans = self.orphans(kept)
        with os_faults("removing orphan files"):
            for orphan in orphans:
                (self._memory_folder / orphan.object_name).unlink(missing_ok=True)
        return orphans

    def _is_orphan(self, path: Path, kept: AbstractSet[str] | None) -> bool:
        """Nothing is an orphan that has not the name of one."""
        if path.name.startswith(_TEMPORARY):
            return True
        digest = path.name.removesuffix(_SUFFIX)
        return kept is not None and path == self._path(digest) and digest not in kept

    def _path(self, digest: str) -> Path:
        return self._memory_folder / self.object_name(digest)

    def _is_intact(self, digest: str) -> bool:
        if not self._path(digest).exists():
            return False
        try:
            self.get(digest)
        except CorruptionError:
            return False
        return True

    def _make_folder(self, folder: Path) -> tuple[Path, ...]:
        """Make a folder; the parents whose entries changed, to be synced."""
        if folder.exists():
            return ()
        new_parents = (self._folder,) if self._folder.exists() else (self._folder, self._memory_folder)
        folder.mkdir(parents=True, exist_ok=True)
        return new_parents

    def _take(self, temporary: Path, digest: str) -> None:
        """Give a file that was synced its name, for good."""
        path = self._path(digest)
        new_folders = self._make_folder(path.parent)
        temporary.replace(path)
        for folder in (path.parent, *new_folders):
            sync(folder)

    def _temporary(self, digest: str) -> Path:
        return self._path(digest).with_name(f"{_TEMPORARY}{digest}")


class _FileSink:
    """BlobSink into a temporary file."""

    def __init__(self, blobs: FileBlobs, file: BinaryIO, temporary: Path) -> None:
        self._blobs = blobs
        self._file = file
        self._temporary = temporary
        self._frames = FrameWriter(file, level=_LEVEL)
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        with os_faults("storing raw sources"):
            self._digest.update(data)
            self._frames.write(data)

    def finish(self) -> str:
        with os_faults("storing raw sources"):
            self._frames.finish()
            self._file.close()
            sync(self._temporary)
            self._blobs._take(self._temporary, self._digest.hexdigest())
        return self._digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise CorruptionError(
            f"{BLOBS_FOLDER}/{path.parent.name}/{path.name} is missing; run 'megacontext check --repair'"
        ) from error
    with file:
        yield file
