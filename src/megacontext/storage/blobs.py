"""Raw sources as content-addressed, compressed files: ``raw/ab/<sha256>.zst``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import zstandard

from megacontext.errors import CorruptionError
from megacontext.storage.faults import os_faults
from megacontext.storage.syncing import sync

__all__ = ["BLOBS_FOLDER", "FileBlobs"]

BLOBS_FOLDER = "raw"
_SUFFIX = ".zst"
_TEMPORARY = ".tmp-"
_LEVEL = 3


class FileBlobs:
    """BlobStore in a memory's folder.

    A blob is written to a temporary file, synced, renamed and its folder synced, so a name that exists is complete.
    """

    def __init__(self, memory_folder: Path) -> None:
        self._memory_folder = memory_folder
        self._folder = memory_folder / BLOBS_FOLDER

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

    def get(self, digest: str) -> bytes:
        path = self._path(digest)
        name = self.object_name(digest)
        try:
            with os_faults(f"reading {name}"):
                # a stream: a flipped size in the header must not allocate what it says
                data = zstandard.ZstdDecompressor().decompressobj().decompress(_read(path))
        except zstandard.ZstdError as error:
            raise CorruptionError(f"{name} cannot be decompressed ({error}); ingest the source again") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptionError(f"{name} fails its checksum; ingest the source again")
        return data

    def digests(self) -> Iterator[str]:
        for path in sorted(self._folder.glob(f"??/*{_SUFFIX}")):
            yield path.name.removesuffix(_SUFFIX)

    def delete(self, digest: str) -> None:
        with os_faults(f"deleting {self.object_name(digest)}"):
            self._path(digest).unlink(missing_ok=True)

    def object_name(self, digest: str) -> str:
        return f"{BLOBS_FOLDER}/{digest[:2]}/{digest}{_SUFFIX}"

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def remove_orphans(self) -> int:
        orphans = list(self._folder.glob(f"??/{_TEMPORARY}*"))
        with os_faults("removing orphan files"):
            for path in orphans:
                path.unlink(missing_ok=True)
        return len(orphans)

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

    def _temporary(self, digest: str) -> Path:
        return self._path(digest).with_name(f"{_TEMPORARY}{digest}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptionError(f"{BLOBS_FOLDER}/{path.parent.name}/{path.name} is missing; ingest it again") from error
