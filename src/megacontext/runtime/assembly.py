"""The one place that wires ports to parts: from a folder to a memory with its catalog, arrays, base and gister."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import (
    InvalidValueError,
    MemoryExistsError,
    MemoryLockedError,
    MemoryNotFoundError,
    MemoryReadOnlyError,
)
from megacontext.gisters.gistnet import LEARNED_GISTER, untaught_shape
from megacontext.gisters.registry import make_gister
from megacontext.memory.layout import LOCK_FILE
from megacontext.memory.lock import WriterLock
from megacontext.ports.base import BaseSource
from megacontext.ports.catalog import MemoryInfo
from megacontext.runtime.base_source import CheckedBase
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.relatives import Elder, Relatives
from megacontext.runtime.shapes import (
    DEFAULT_BASE,
    AnyBase,
    Placing,
    Shape,
    base_source,
)
from megacontext.storage.blobs import FileBlobs
from megacontext.storage.cached_arrays import cached_store
from megacontext.storage.faults import os_faults
from megacontext.storage.generations import Generation, Hold, current_generation
from megacontext.storage.locations import local_folder
from megacontext.storage.patience import READ_TIMEOUT_S
from megacontext.units import MIB
from megacontext.values import flag, number, whole_number
from megacontext.values import path as valid_path

__all__ = [
    "create",
    "held_generation",
    "memory_folder",
    "open",
    "parts_of",
    "recorded_base",
]

CREATION_TIMEOUT_S = 10.0
UNFINISHED = (".new", ".new-journal", ".new-wal", ".new-shm")

_log = logging.getLogger(__name__)


def open(
    path: str | PathLike[str],
    *,
    base: AnyBase | None = None,
    create: bool = False,
    gister: str | None = None,
    block_tokens: int | None = None,
    gist_width: int | None = None,
    read_only: bool = False,
    cache_bytes: int = 64 * MIB,
    read_timeout_s: float = READ_TIMEOUT_S,
    dtype: str = "auto",
    device: str = "auto",
    base_config: str | PathLike[str] | None = None,
    api_key: str | None = None,
) -> OpenedMemory:
    """Open a memory, or make one if there is none and ``create`` is True.

    Args:
        path: a local folder; of a memory that was moved to another base also ``generations/N`` in it, for reading.
        base: the bundled ``reference``, a model folder, a Hugging Face id, a model behind an API
            (``openai:MODEL@URL``, ``vllm:MODEL@URL``), or a base in memory; None: the one that the memory was made
            with, ``reference`` for a new one. It is loaded when it is first needed.
        create: make the memory if it is not there.
        gister: makes the gists: a name of ``gisters.registry``, by default as the memory was made; in a new one the
            base's own learned gists, or ``extractive`` where it has none; ``sentences`` for a base that reads text.
        block_tokens: children of a node (K), 8 to 128; what suits the base (``base_config``), else 32, fewer where
            gists are text. Fixed when a memory is made. Learned gists tell little of sizes and widths that they were
            never taught: a warning is logged that names those they were.
        gist_width: vectors of a gist (r); what suits the base, else 1, more where they are text. Fixed when a memory is
            made.
        read_only: refuse changes. Reading never locks, so that several processes may read while one writes.
        cache_bytes: limit of what is kept of the sealed arrays.
        read_timeout_s: how long a read of them may take; a session then shows less detail and says so (WarningEvent).
        dtype, device: of the base model: ``auto`` (what the device is fast at), ``float32``, ``bfloat16``, ``float16``,
            or linear layers quantised while they are read, ``int8``, ``int4``; ``auto`` (CUDA if there is one),
            ``cpu``, ``cuda``, ``cuda:N``.
        base_config: file that ``megacontext port`` wrote, with the defaults that suit the base; by default the
            ``megacontext.toml`` in the model's folder, or what is shipped for the model's name.
        api_key: of a base behind an API; None: that of the environment (see ``runtime.api_keys``). It is never stored.

    Raises: MemoryNotFoundError, MemoryExistsError (something else is there), BaseMismatchError, SchemaVersionError,
        UnknownNameError, InvalidValueError.

    >>> import megacontext as mc
    >>> with mc.open("notes.mc", create=True) as memory:
    ...     memory.append_text("Lunch is at noon.\\n", source="chat")
    (0, 8)
    """
    folder = memory_folder(path)
    read_only = flag("read_only", read_only)
    cache_bytes = whole_number("cache_bytes", cache_bytes, of="bytes", usual=64 * MIB)
    read_timeout_s = number("read_timeout_s", read_timeout_s, above=0)
    shape = Shape.of(gister, block_tokens, gist_width)
    placing = Placing.of(dtype, device, base_config=base_config, api_key=api_key)
    made = None
    if flag("create", create) and not read_only and not _has_catalog(folder):
        made = _create(folder, base, shape, placing)
    generation, hold = held_generation(folder, read_only=read_only)
    try:
        catalog, source = made or _opened(generation, base, shape, read_only, placing)
    except BaseException:
        hold.release()
        raise
    return OpenedMemory(
        **parts_of(catalog, source, generation, cache_bytes, read_timeout_s),
        base=source,
        lock_path=generation.memory_folder / LOCK_FILE,
        read_only=read_only,
        siblings=Relatives(generation, hold, partial(_elder, placing=placing)),
    )


def create(
    path: str | PathLike[str],
    *,
    base: AnyBase | None = None,
    gister: str | None = None,
    block_tokens: int | None = None,
    gist_width: int | None = None,
    base_config: str | PathLike[str] | None = None,
) -> OpenedMemory:
    """Make a new memory; MemoryExistsError if there is one."""
    folder = memory_folder(path)
    shape, placing = Shape.of(gister, block_tokens, gist_width), Placing.of("auto", "auto", base_config=base_config)
    made = None if _has_catalog(folder) else _create(folder, base, shape, placing)
    if made is None:
        raise MemoryExistsError(f"there is a memory at {folder} already; use it, or choose another place")
    made[0].close()
    return open(folder, base=base, base_config=base_config)


def memory_folder(path: str | PathLike[str]) -> Path:
    """The folder that a memory lies in. InvalidValueError."""
    location = valid_path("path", path)
    folder = local_folder(location)
    if folder is None:
        raise InvalidValueError(
            f"{location} is not a local folder; memories live in local folders for now, because the catalog is SQLite: "
            "use a folder, and `megacontext export` to copy the memory elsewhere"
        )
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise InvalidValueError(f"{location} begins with a home folder that is not there; write it out") from error


def _has_catalog(folder: Path) -> bool:
    try:
        with os_faults(f"opening {folder}"):
            SqliteCatalog.open(current_generation(folder).folder, read_only=True).close()
    except MemoryNotFoundError:
        return False
    return True


def parts_of(
    catalog: SqliteCatalog,
    source: BaseSource,
    generation: Generation,
    cache_bytes: int = 64 * MIB,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> dict[str, Any]:
    """What ``Memory`` is made of, but for base, codec and locks."""
    info = catalog.info
    return {
        "catalog": catalog,
        "arrays": cached_store(generation.folder, cache_bytes=cache_bytes, read_timeout_s=read_timeout_s),
        "blobs": FileBlobs(generation.memory_folder),
        "gister": lambda: make_gister(
            info.gister_name, source, block_tokens=info.block_tokens, gist_width=info.gist_width
        ),
    }


def _elder(generation: Generation, *, placing: Placing) -> OpenedMemory:
    """A generation that does not count, to be erased from; the caller holds the locks of the memory."""
    catalog = SqliteCatalog.open(generation.folder)
    source = recorded_base(None, catalog.info, generation.memory_folder, placing)
    return OpenedMemory(**parts_of(catalog, source, generation), base=source, siblings=Elder(generation))


def held_generation(folder: Path, *, read_only: bool = True) -> tuple[Generation, Hold]:
    """The generation that counts, or the one whose own folder it is, so that nobody removes it."""
    if (named := Generation.at(folder)) is not None and named.has_catalog:
        if not read_only:
            raise MemoryReadOnlyError(
                f"{folder} is the memory {named.memory_folder} as it was or will be for another base; open it with "
                f"read_only=True, or {named.memory_folder} to change it"
            )
        return named, Hold(folder)
    while True:
        generation = current_generation(folder)
        hold = Hold(generation.folder)
        if hold.is_held and current_generation(folder) == generation:
            return generation, hold
        hold.release()


def _opened(
    generation: Generation, base: AnyBase | None, shape: Shape, read_only: bool, placing: Placing
) -> tuple[SqliteCatalog, BaseSource]:
    folder = generation.memory_folder
    with os_faults(f"opening {folder}"):
        catalog = SqliteCatalog.open(generation.folder, read_only=read_only)
    try:
        source = recorded_base(base, catalog.info, folder, placing)
        shape.refuse_other(catalog.info, str(folder))
    except BaseException:
        catalog.close()
        raise
    return catalog, source


def _create(
    folder: Path, base: AnyBase | None, shape: Shape, placing: Placing
) -> tuple[SqliteCatalog, BaseSource] | None:
    """Everything is checked before anything is written. None if another process has made a memory there meanwhile."""
    source = base_source(base if base is not None else DEFAULT_BASE, placing)
    info = shape.info(source)
    with os_faults(f"creating {folder}"):
        if folder.exists() and not (folder.is_dir() and all(map(_is_leftover, folder.iterdir()))):
            if _has_catalog(folder):
                return None
            raise MemoryExistsError(f"{folder} exists and is no memory; choose a new or an empty folder")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(folder / LOCK_FILE, doing="made")
    if not _acquired(lock, folder):
        return None
    try:
        if _has_catalog(folder):
            return None
        catalog = SqliteCatalog.create(folder, info)
    except BaseException:
        with suppress(OSError):  # under the lock: another process waits for it, and makes its own when it is gone
            for leftover in filter(_is_leftover, folder.iterdir() if is_new else ()):
                leftover.unlink()
            if is_new:
                folder.rmdir()
        raise
    finally:
        lock.release()
    new = untaught_shape(source.info, block_tokens=info.block_tokens, gist_width=info.gist_width)
    if info.gister_name == LEARNED_GISTER and new:
        _log.warning(new)
    return catalog, source


def _is_leftover(path: Path) -> bool:
    """Whether a file may be of a memory whose making was interrupted, or is under way."""
    return path.suffix in UNFINISHED or path.name in (LOCK_FILE, Path(LOCK_FILE).with_suffix(".pid").name)


def _acquired(lock: WriterLock, folder: Path) -> bool:
    """Wait for whoever makes the same memory just now; False if it is there then."""
    latest = time.monotonic() + CREATION_TIMEOUT_S
    while True:
        try:
            lock.acquire()
            return True
        except MemoryLockedError:
            if _has_catalog(folder):
                return False
            if time.monotonic() > latest:
                raise
            time.sleep(0.02)


def recorded_base(base: AnyBase | None, info: MemoryInfo, folder: Path, placing: Placing) -> CheckedBase:
    """The base that a memory was made with; refused at once if somebody names another."""
    checked = CheckedBase(
        lambda: base_source(info.base_name if base is None else base, placing),
        info,
        str(folder),
        is_named=base is not None,
    )
    if base is not None:
        assert checked.found  # somebody named a base: refuse a wrong one now
    return checked
