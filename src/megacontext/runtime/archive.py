"""The tar file of an exported memory: its files, and last a manifest with a digest for each of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from megacontext.catalog.backup import COPIED_FILES
from megacontext.errors import CorruptionError, InvalidValueError, SchemaVersionError
from megacontext.storage.blobs import BLOBS_FOLDER
from megacontext.storage.zarr_layout import ARRAYS_FOLDER

__all__ = ["Progress", "unpack_archive", "write_archive"]

MANIFEST = "manifest.json"
FORMAT = 1
CHUNK_BYTES = 1 << 20
# what an archive may contain: nothing that could land outside the memory's folder
SAFE_NAME = re.compile(
    rf"{'|'.join(map(re.escape, COPIED_FILES))}|({ARRAYS_FOLDER}|{BLOBS_FOLDER})(/[A-Za-z0-9][A-Za-z0-9._-]*)+"
)

Progress = Callable[[int, str], None]


class _HashingReader(io.RawIOBase):
    """Counts and hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        self.num_bytes += len(data)
        return data

    @property
    def entry(self) -> dict[str, Any]:
        return {"sha256": self._sha256.hexdigest(), "bytes": self.num_bytes}


def write_archive(
    path: Path, folder: Path, places: Mapping[str, Path], num_tokens: int, progress: Progress | None
) -> int:
    """Pack files of the memory in ``folder``, by the names they get, in this order; the number of files."""
    files: dict[str, Any] = {}
    num_bytes = 0
    with path.open("xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, place in places.items():
                if not place.is_file():
                    raise CorruptionError(f"{name} is missing; run `megacontext check {folder} --repair`, then export")
                with place.open("rb") as source:
                    reader = _HashingReader(source)
                    member = tarfile.TarInfo(name)
                    member.size, member.mtime = place.stat().st_size, int(time.time())
                    tar.addfile(member, reader)
                files[name] = reader.entry
                num_bytes += reader.num_bytes
                if progress is not None:
                    progress(num_bytes, name)
            manifest = json.dumps({"format": FORMAT, "num_tokens": num_tokens, "files": files}, indent=1).encode()
            member = tarfile.TarInfo(MANIFEST)
            member.size = len(manifest)
            tar.addfile(member, io.BytesIO(manifest))
        file.flush()
        os.fsync(file.fileno())
    return len(files)


def unpack_archive(archive: Path, folder: Path, progress: Progress | None) -> tuple[int, int]:
    """Unpack and verify every digest; the number of files and bytes.

    Raises: InvalidValueError (no whole archive of ours), SchemaVersionError, CorruptionError naming the file that
        differs.
    """
    found: dict[str, Any] = {}
    manifest: dict[str, Any] | None = None
    num_bytes = 0
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                is_manifest = member.name == MANIFEST
                is_expected = is_manifest or (SAFE_NAME.fullmatch(member.name) and member.name not in found)
                if content is None or manifest is not None or not is_expected:
                    raise InvalidValueError(
                        f"{archive} contains {member.name!r}, which no export writes; do not use it"
                    )
                if is_manifest:
                    manifest = json.loads(content.read())
                    continue
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                reader = _HashingReader(content)
                with target.open("xb") as file:
                    shutil.copyfileobj(reader, file, CHUNK_BYTES)
                found[member.name] = reader.entry
                num_bytes += reader.num_bytes
                if progress is not None:
                    progress(num_bytes, member.name)
    except InvalidValueError:
        raise
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InvalidValueError(
            f"{archive} is not a whole archive that `megacontext export` wrote ({error}); export the memory again"
        ) from error
    _compare(archive, manifest, found)
    return len(found), num_bytes


def _compare(archive: Path, manifest: dict[str, Any] | None, found: dict[str, Any]) -> None:
    if manifest is None or not isinstance(manifest.get("files"), dict):
        raise InvalidValueError(f"{archive} ends before its manifest; it is not whole, export the memory again")
    if manifest.get("format") != FORMAT:
        raise SchemaVersionError(
            f"{archive} is of format {manifest.get('format')}, this MegaContext reads {FORMAT}; install a newer one"
        )
    for name in sorted({*manifest["files"], *found}):
        if manifest["files"].get(name) != found.get(name):
            raise CorruptionError(f"{name} in {archive} does not match its digest; export the memory again")
