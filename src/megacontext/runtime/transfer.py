"""Moving a memory: everything that the last commit refers to, in one tar file with a digest for every file.

An export needs no writer's lock. The catalog is copied first; whatever it names (sealed shards, raw sources) was
complete by then and never changes, so what a writer adds meanwhile is simply not part of the copy. Only erasing and
repairing rewrite what is sealed; a lock of their own keeps them and exports apart. An import unpacks beside its target,
compares every digest, and renames the folder when all of them match: a memory appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from megacontext.catalog.backup import COPIED_FILES, copy_catalog
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import (
    CorruptionError,
    InvalidValueError,
    MemoryExistsError,
    MemoryNotFoundError,
    SchemaVersionError,
)
from megacontext.memory.layout import REWRITE_LOCK_FILE, sealed_arrays
from megacontext.memory.lock import RewriteLock
from megacontext.memory.passages import indexed_stop
from megacontext.ports.catalog import CatalogState, MemoryInfo
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.blobs import BLOBS_FOLDER, FileBlobs
from megacontext.storage.faults import os_faults
from megacontext.storage.zarr_layout import ARRAYS_FOLDER, metadata_name

__all__ = ["TransferReport", "export_memory", "import_memory"]

MANIFEST = "manifest.json"
FORMAT = 1
CHUNK_BYTES = 1 << 20
# what an archive may contain: nothing that could land outside the memory's folder
SAFE_NAME = re.compile(
    rf"{'|'.join(map(re.escape, COPIED_FILES))}|({ARRAYS_FOLDER}|{BLOBS_FOLDER})(/[A-Za-z0-9][A-Za-z0-9._-]*)+"
)

Progress = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What was moved."""

    num_files: int
    num_bytes: int
    num_tokens: int
    num_sources: int


def export_memory(folder: Path, archive: Path, *, progress: Progress | None = None) -> TransferReport:
    """Write the memory in ``folder`` to the new tar file ``archive``. ``progress(num_bytes, name)`` after each file.

    Raises: MemoryNotFoundError, InvalidValueError (the archive exists), MemoryLockedError (a source is being erased, or
    the memory repaired), CorruptionError (a file is missing, or the copy would lack what a repair can make again).
    """
    if archive.exists():
        raise InvalidValueError(f"{archive} exists already; choose another name, or remove it first")
    if not archive.absolute().parent.is_dir():
        raise InvalidValueError(f"the folder of {archive} does not exist; create it first")
    unfinished = archive.with_name(f"{archive.name}.unfinished")
    with (
        os_faults(f"exporting to {archive}"),
        tempfile.TemporaryDirectory(dir=archive.absolute().parent, prefix=".megacontext-") as temporary,
    ):
        SqliteCatalog.open(folder, read_only=True).close()
        snapshot = Path(temporary)
        try:
            with RewriteLock(folder / REWRITE_LOCK_FILE).shared():
                copy_catalog(folder, snapshot)
                state, names = _contents(folder, snapshot)
                digests = _write_archive(unfinished, folder, snapshot, names, state.num_tokens, progress)
            unfinished.replace(archive)
        finally:
            unfinished.unlink(missing_ok=True)
    return TransferReport(
        num_files=len(digests),
        num_bytes=archive.stat().st_size,
        num_tokens=state.num_tokens,
        num_sources=state.num_sources,
    )


def import_memory(archive: Path, folder: Path, *, progress: Progress | None = None) -> TransferReport:
    """Make a new memory in ``folder`` from an archive; nothing is left there if it is not whole.

    Raises: MemoryExistsError, InvalidValueError (no archive of ours), CorruptionError naming the file that differs.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MemoryExistsError(f"{folder} exists and is not empty; choose a new folder")
    if not archive.is_file():
        raise InvalidValueError(f"{archive} is no file; give one that `megacontext export` wrote")
    parent = folder.absolute().parent
    with os_faults(f"importing to {folder}"):
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".megacontext-"))
        try:
            num_files, num_bytes = _unpack(archive, temporary, progress)
            try:
                catalog = SqliteCatalog.open(temporary, read_only=True)
            except MemoryNotFoundError as error:
                raise CorruptionError(f"{archive} has no catalog; export the memory again") from error
            state = catalog.state()
            catalog.close()
            temporary.chmod(0o755)
            _sync_all(temporary)
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
            _sync(parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return TransferReport(
        num_files=num_files, num_bytes=num_bytes, num_tokens=state.num_tokens, num_sources=state.num_sources
    )


# --- what belongs to a memory -----------------------------------------------------------------------------------------


def _contents(folder: Path, snapshot: Path) -> tuple[CatalogState, list[str]]:
    """What the copied catalog says, and the files that belong to it."""
    catalog = SqliteCatalog.open(snapshot, read_only=True)
    try:
        state = catalog.state()
        _refuse_unfinished(folder, catalog.info, state)
        return state, list(_object_names(folder, catalog))
    finally:
        catalog.close()


def _refuse_unfinished(folder: Path, info: MemoryInfo, state: CatalogState) -> None:
    """What is quickly seen and can always be made good: half an erasure, and arrays that no reader could open."""
    specs = [array.spec for array in sealed_arrays(info, state)]
    for damage in TensorStoreArrays(folder).damaged_layout(specs):
        raise CorruptionError(
            f"{damage.object_name} {damage.problem}; run `megacontext check {folder} --repair`, then export"
        )
    if state.indexed_tokens != indexed_stop(state.num_tokens, info.block_tokens):
        raise CorruptionError(
            f"{folder} lacks its word index, as after an erasure that was interrupted; erase again, "
            f"or run `megacontext check {folder} --repair`, then export"
        )


def _object_names(folder: Path, catalog: SqliteCatalog) -> Iterator[str]:
    """Files that the catalog refers to, relative to the memory."""
    info, state = catalog.info, catalog.state()
    arrays, blobs = TensorStoreArrays(folder), FileBlobs(folder)
    described = sealed_arrays(info, state)
    if described:
        yield metadata_name("")
    for array in described:
        yield metadata_name(array.spec.name)
        yield from (arrays.object_name(array.spec, shard) for shard in range(array.num_shards))
    digests = {digest for source in catalog.sources() for digest in (source.raw_digest, source.text_digest)}
    digests |= {segment.raw_digest for segment in catalog.segments()}
    yield from (blobs.object_name(digest) for digest in sorted(digests) if digest)


# --- archives ---------------------------------------------------------------------------------------------------------


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


def _write_archive(
    path: Path, folder: Path, snapshot: Path, names: list[str], num_tokens: int, progress: Progress | None
) -> dict[str, Any]:
    files: dict[str, Any] = {}
    num_bytes = 0
    with path.open("xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in [*COPIED_FILES, *names]:
                place = (snapshot if name in COPIED_FILES else folder) / name
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
    return files


def _unpack(archive: Path, folder: Path, progress: Progress | None) -> tuple[int, int]:
    """Unpack and verify; number of files and bytes."""
    found: dict[str, Any] = {}
    manifest: dict[str, Any] | None = None
    num_bytes = 0
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or manifest is not None:
                    raise InvalidValueError(
                        f"{archive} contains {member.name!r}, which no export writes; do not use it"
                    )
                if member.name == MANIFEST:
                    manifest = json.loads(content.read())
                    continue
                if not SAFE_NAME.fullmatch(member.name) or member.name in found:
                    raise InvalidValueError(
                        f"{archive} contains {member.name!r}, which no export writes; do not use it"
                    )
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                reader = _HashingReader(content)
                with target.open("xb") as file:
                    shutil.copyfileobj(reader, file, CHUNK_BYTES)
                found[member.name] = reader.entry
                num_bytes += reader.num_bytes
                if progress is not None:
                    progress(num_bytes, member.name)
    except (tarfile.TarError, ValueError, EOFError) as error:
        if isinstance(error, InvalidValueError):
            raise
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


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
