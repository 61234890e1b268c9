"""The one place that wires ports to parts: from a folder to a memory with its catalog, arrays, base and gister."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from megacontext.bases.registry import check_placement
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.schemes import base_handle
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import BaseMismatchError, InvalidValueError, MemoryExistsError, MemoryNotFoundError
from megacontext.gisters.gistnet import LEARNED_GISTER, untaught_shape
from megacontext.gisters.registry import gister_version, make_gister
from megacontext.memory.layout import LOCK_FILE
from megacontext.ports.base import Base, BaseInfo
from megacontext.ports.catalog import MemoryInfo
from megacontext.runtime.api_keys import find_key, given_key
from megacontext.runtime.base_source import BaseSource, CheckedBase, LoadedBase
from megacontext.runtime.opened import OpenedMemory
from megacontext.storage.blobs import FileBlobs
from megacontext.storage.cached_arrays import cached_store
from megacontext.storage.faults import os_faults
from megacontext.storage.locations import local_folder
from megacontext.storage.patience import READ_TIMEOUT_S
from megacontext.tree.geometry import MAX_BLOCK_TOKENS, TreeGeometry
from megacontext.units import MIB
from megacontext.values import flag, number, shown, whole_number
from megacontext.values import path as valid_path

__all__ = ["DEFAULT_BASE", "DEFAULT_BLOCK_TOKENS", "DEFAULT_GISTER", "create", "open"]

_log = logging.getLogger(__name__)

DEFAULT_BASE = "reference"
DEFAULT_GISTER = "extractive"
DEFAULT_BLOCK_TOKENS = 32
# Of memories whose gists are text; docs/api-models.md has the measurement.
TEXT_GISTER = "sentences"
TEXT_SHAPES = {"sentences": (16, 4), "summary": (64, 16)}  # block_tokens, gist_width


def open(
    path: str | PathLike[str],
    *,
    base: str | PathLike[str] | Base | BaseSource | None = None,
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
        path: a local folder.
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
        dtype, device: of the base model: ``auto`` (what the device is fast at), ``float32``, ``bfloat16``; ``auto``
            (CUDA if there is one), ``cpu``, ``cuda``.
        base_config: file that ``megacontext port`` wrote, with the defaults that suit the base; by default the
            ``megacontext.toml`` in the model's folder, or what is shipped for the model's name.
        api_key: of a base behind an API; None: that of the environment (see ``runtime.api_keys``). It is never stored.

    Raises: MemoryNotFoundError, MemoryExistsError (something else is there), BaseMismatchError, SchemaVersionError,
        UnknownNameError, InvalidValueError.

    >>> import megacontext as mc
    >>> memory = mc.open("notes.mc", create=True)  # doctest: +SKIP
    """
    folder = _folder(path)
    read_only = flag("read_only", read_only)
    cache_bytes = whole_number("cache_bytes", cache_bytes, of="bytes", usual=64 * MIB)
    read_timeout_s = number("read_timeout_s", read_timeout_s, above=0)
    shape = _Shape.of(gister, block_tokens, gist_width)
    check_placement(dtype, device)
    placing = _Placing(
        dtype=dtype,
        device=device,
        profile=None if base_config is None else Path(valid_path("base_config", base_config)),
        key=given_key(api_key),
    )
    if flag("create", create) and not read_only and not _has_catalog(folder):
        catalog, source = _create(folder, base, shape, placing)
    else:
        with os_faults(f"opening {folder}"):
            catalog = SqliteCatalog.open(folder, read_only=read_only)
        try:
            source = _recorded_base(base, catalog.info, folder, placing)
            _refuse_other_shape(catalog.info, folder, shape)
        except BaseException:
            catalog.close()
            raise
    info = catalog.info
    return OpenedMemory(
        base=source,
        catalog=catalog,
        arrays=cached_store(folder, cache_bytes=cache_bytes, read_timeout_s=read_timeout_s),
        blobs=FileBlobs(folder),
        gister=lambda: make_gister(
            info.gister_name, source, block_tokens=info.block_tokens, gist_width=info.gist_width
        ),
        lock_path=folder / LOCK_FILE,
        read_only=read_only,
    )


def create(
    path: str | PathLike[str],
    *,
    base: str | PathLike[str] | Base | BaseSource | None = None,
    gister: str | None = None,
    block_tokens: int | None = None,
    gist_width: int | None = None,
    base_config: str | PathLike[str] | None = None,
) -> OpenedMemory:
    """Make a new memory; MemoryExistsError if there is one."""
    folder = _folder(path)
    if _has_catalog(folder):
        raise MemoryExistsError(f"there is a memory at {folder} already; use it, or choose another place")
    return open(
        folder,
        base=base,
        create=True,
        gister=gister,
        block_tokens=block_tokens,
        gist_width=gist_width,
        base_config=base_config,
    )


@dataclass(frozen=True, kw_only=True)
class _Placing:
    """Where and how a base that is given by its name is run. profile: file of what suits it."""

    dtype: str
    device: str
    profile: Path | None
    key: ApiKey | None


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What is fixed when a memory is made, as far as somebody says; None: as it is, or the default."""

    gister: str | None
    block_tokens: int | None
    gist_width: int | None

    @classmethod
    def of(cls, gister: str | None, block_tokens: int | None, gist_width: int | None) -> _Shape:
        """InvalidValueError, UnknownNameError for what no memory could have."""
        if gister is not None:
            gister_version(gister)
        if block_tokens is not None:
            block_tokens = TreeGeometry(block_tokens).block_tokens
        if gist_width is not None:
            gist_width = whole_number("gist_width", gist_width, least=1, most=MAX_BLOCK_TOKENS - 1, of="vectors")
        return cls(gister=gister, block_tokens=block_tokens, gist_width=gist_width)


def _folder(path: str | PathLike[str]) -> Path:
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
            SqliteCatalog.open(folder, read_only=True).close()
    except MemoryNotFoundError:
        return False
    return True


def _source(base: str | PathLike[str] | Base | BaseSource, placing: _Placing) -> BaseSource:
    if isinstance(base, str | PathLike):
        return base_handle(
            valid_path("base", base, example="models/qwen"),
            dtype=placing.dtype,
            device=placing.device,
            profile=placing.profile,
            find_key=lambda address: find_key(address, placing.key),
        )
    if isinstance(base, Base):
        return LoadedBase(base)
    if isinstance(base, type) or not isinstance(base, BaseSource):
        raise InvalidValueError(
            f"base is {shown(base)}; give {DEFAULT_BASE}, a model folder, a Hugging Face id, or a base in memory"
        )
    return base


def _create(
    folder: Path,
    base: str | PathLike[str] | Base | BaseSource | None,
    shape: _Shape,
    placing: _Placing,
) -> tuple[SqliteCatalog, BaseSource]:
    """Everything is checked before anything is written."""
    source = _source(base if base is not None else DEFAULT_BASE, placing)
    name, tree, width = _shape_for(source.info, shape)
    made = make_gister(name, source, block_tokens=tree.block_tokens, gist_width=width)
    info = MemoryInfo(
        block_tokens=tree.block_tokens,
        segment_tokens=tree.segment_tokens,
        base_name=source.info.name,
        base_revision=source.info.revision,
        base_fingerprint=source.info.fingerprint,
        vocab_size=source.info.vocab_size,
        dim=source.info.dim,
        gister_name=name,
        gister_version=made.version,
        gist_width=width,
        created_at=time.time(),
    )
    with os_faults(f"creating {folder}"):
        if folder.exists() and (not folder.is_dir() or any(entry.suffix != ".new" for entry in folder.iterdir())):
            raise MemoryExistsError(f"{folder} exists and is no memory; choose a new or an empty folder")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    try:
        catalog = SqliteCatalog.create(folder, info)
    except BaseException:
        if is_new:
            for leftover in folder.iterdir():
                leftover.unlink()
            folder.rmdir()
        raise
    new = untaught_shape(source.info, block_tokens=tree.block_tokens, gist_width=width)
    if name == LEARNED_GISTER and new:
        _log.warning(new)
    return catalog, source


def _shape_for(base: BaseInfo, shape: _Shape) -> tuple[str, TreeGeometry, int]:
    """Gister, tree and gist width of a new memory."""
    if base.reads_text:
        name = shape.gister or TEXT_GISTER
        block_tokens, width = TEXT_SHAPES.get(name, TEXT_SHAPES[TEXT_GISTER])
        tree = TreeGeometry(shape.block_tokens or block_tokens)
        width = shape.gist_width or min(width, tree.block_tokens // 2)
    else:
        suited = base.defaults
        name = shape.gister or suited.gister or (LEARNED_GISTER if base.gist_net else DEFAULT_GISTER)
        tree = TreeGeometry(shape.block_tokens or suited.block_tokens or DEFAULT_BLOCK_TOKENS)
        width = shape.gist_width or suited.gist_width or 1
    # gists as wide as their blocks would save nothing
    return name, tree, whole_number("gist_width", width, least=1, most=tree.block_tokens - 1, of="vectors")


def _recorded_base(
    base: str | PathLike[str] | Base | BaseSource | None, info: MemoryInfo, folder: Path, placing: _Placing
) -> CheckedBase:
    checked = CheckedBase(
        lambda: _source(info.base_name if base is None else base, placing),
        info,
        str(folder),
        is_named=base is not None,
    )
    if base is not None:
        assert checked.found  # somebody named a base: refuse a wrong one now
    return checked


def _refuse_other_shape(info: MemoryInfo, folder: Path, shape: _Shape) -> None:
    for name, given, made in (
        ("gister", shape.gister, info.gister_name),
        ("block_tokens", shape.block_tokens, info.block_tokens),
        ("gist_width", shape.gist_width, info.gist_width),
    ):
        if given is not None and given != made:
            raise BaseMismatchError(
                f"{folder} was made with {name}={made}, not {given}; leave {name} out, or make a new memory "
                "with it and ingest the sources again"
            )
