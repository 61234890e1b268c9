"""Moving a memory: everything that the last commit refers to, in one tar file with a digest for every file.

An export needs no writer's lock. The catalog is copied first; whatever it names (sealed shards, raw sources) was
complete by then and never changes, so what a writer adds meanwhile is simply not part of the copy. Only erasing and
repairing rewrite what is sealed; a lock of their own keeps them and exports apart. An import unpacks beside its target,
compares every digest, and renames the folder when all of them match: a memory appears whole or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from megacontext.catalog.backup import COPIED_FILES, copy_catalog
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import (
    CorruptionError,
    InvalidValueError,
    MemoryExistsError,
    MemoryNotFoundError,
)
from megacontext.memory.layout import REWRITE_LOCK_FILE, sealed_arrays
from megacontext.memory.lock import RewriteLock
from megacontext.memory.passages import indexed_stop
from megacontext.ports.catalog import CatalogState, MemoryInfo
from megacontext.runtime.archive import Progress, unpack_archive, write_archive
from megacontext.runtime.assembly import held_generation, memory_folder
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.blobs import BLOBS_FOLDER, FileBlobs
from megacontext.storage.faults import os_faults
from megacontext.storage.generations import Generation
from megacontext.storage.syncing import sync
from megacontext.storage.zarr_layout import metadata_name

UNFINISHED = "archive.unfinished"

__all__ = ["TransferReport", "export_memory", "import_memory"]


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What was moved."""

    num_files: int
    num_bytes: int
    num_tokens: int
    num_sources: int


def export_memory(path: str | PathLike[str], archive: Path, *, progress: Progress | None = None) -> TransferReport:
    """Write the memory at ``path`` to the new tar file ``archive``. ``progress(num_bytes, name)`` after each file.

    Raises: MemoryNotFoundError, InvalidValueError (the archive exists), MemoryLockedError (a source is being erased, or
    the memory repaired), CorruptionError (a file is missing, or the copy would lack what a repair can make again).
    """
    folder = memory_folder(path)
    if archive.is_dir():
        raise InvalidValueError(f"{archive} is a folder; name a file in it, such as {archive / 'memory.tar'}")
    if archive.exists():
        raise InvalidValueError(f"{archive} exists already; choose another name, or remove it first")
    if not archive.absolute().parent.is_dir():
        raise InvalidValueError(f"the folder of {archive} does not exist; create it first")
    with (
        os_faults(f"exporting to {archive}"),
        tempfile.TemporaryDirectory(dir=archive.absolute().parent, prefix=".megacontext-") as temporary,
    ):
        generation, hold = held_generation(folder)
        snapshot, unfinished = Path(temporary), Path(temporary) / UNFINISHED
        try:
            SqliteCatalog.open(generation.folder, read_only=True).close()
            with RewriteLock(generation.memory_folder / REWRITE_LOCK_FILE).shared():
                copy_catalog(generation.folder, snapshot)
                state, names = _contents(generation, snapshot)
                places = {name: snapshot / name for name in COPIED_FILES} | {
                    name: _place(generation, name) for name in names
                }
                num_files = write_archive(unfinished, folder, places, state.num_tokens, progress)
            unfinished.replace(archive)
        finally:
            hold.release()
    return TransferReport(
        num_files=num_files,
        num_bytes=archive.stat().st_size,
        num_tokens=state.num_tokens,
        num_sources=state.num_sources,
    )


def import_memory(archive: Path, path: str | PathLike[str], *, progress: Progress | None = None) -> TransferReport:
    """Make a new memory at ``path`` from an archive; nothing is left there if it is not whole.

    Raises: MemoryExistsError, InvalidValueError (no archive of ours), CorruptionError naming the file that differs.
    """
    folder = memory_folder(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MemoryExistsError(f"{folder} exists and is not empty; choose a new folder")
    if not archive.is_file():
        raise InvalidValueError(f"{archive} is no file; give one that `megacontext export` wrote")
    parent = folder.absolute().parent
    with os_faults(f"importing to {folder}"):
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".megacontext-"))
        try:
            num_files, num_bytes = unpack_archive(archive, temporary, progress)
            try:
                catalog = SqliteCatalog.open(temporary, read_only=True)
            except MemoryNotFoundError as error:
                raise CorruptionError(f"{archive} has no catalog; export the memory again") from error
            state = catalog.state()
            catalog.close()
            temporary.chmod(0o755)
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
            sync(parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return TransferReport(
        num_files=num_files, num_bytes=num_bytes, num_tokens=state.num_tokens, num_sources=state.num_sources
    )


def _place(generation: Generation, name: str) -> Path:
    """Where a file of the archive lies: raw sources are shared by all generations of a memory."""
    is_blob = name.startswith(f"{BLOBS_FOLDER}/")
    return (generation.memory_folder if is_blob else generation.folder) / name


def _contents(generation: Generation, snapshot: Path) -> tuple[CatalogState, list[str]]:
    """What the copied catalog says, and the files that belong to it."""
    catalog = SqliteCatalog.open(snapshot, read_only=True)
    try:
        state = catalog.state()
        _refuse_unfinished(generation, catalog.info, state)
        return state, list(_object_names(generation, catalog))
    finally:
        catalog.close()


def _refuse_unfinished(generation: Generation, info: MemoryInfo, state: CatalogState) -> None:
    """What is quickly seen and can always be made good: half an erasure, and arrays that no reader could open."""
    folder = generation.memory_folder
    specs = [array.spec for array in sealed_arrays(info, state)]
    for damage in TensorStoreArrays(generation.folder).damaged_layout(specs):
        raise CorruptionError(
            f"{damage.object_name} {damage.problem}; run `megacontext check {folder} --repair`, then export"
        )
    if state.indexed_tokens != indexed_stop(state.num_tokens, info.block_tokens):
        raise CorruptionError(
            f"{folder} lacks its word index, as after an erasure that was interrupted; erase again, "
            f"or run `megacontext check {folder} --repair`, then export"
        )


def _object_names(generation: Generation, catalog: SqliteCatalog) -> Iterator[str]:
    """Files that the catalog refers to, by their names in the archive."""
    info, state = catalog.info, catalog.state()
    arrays, blobs = TensorStoreArrays(generation.folder), FileBlobs(generation.memory_folder)
    described = sealed_arrays(info, state)
    if described:
        yield metadata_name("")
    for array in described:
        yield metadata_name(array.spec.name)
        yield from (arrays.object_name(array.spec, shard) for shard in range(array.num_shards))
    digests = {digest for source in catalog.sources() for digest in (source.raw_digest, source.text_digest)}
    digests |= {segment.raw_digest for segment in catalog.segments()}
    yield from (blobs.object_name(digest) for digest in sorted(digests) if digest)
