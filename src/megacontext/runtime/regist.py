"""Moving a memory to another base: everything that is derived from its raw sources is made again beside what is there.

The work goes on in a generation of its own (``storage.generations``), which does not count before it is whole. Until
then the memory is read and written as ever; what is added meanwhile is made last, under the writer's lock, and then one
step of the file system switches. A run that was stopped goes on at the next source.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from megacontext.catalog.backup import refuse_lost_commits
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import (
    BaseMismatchError,
    CorruptionError,
    InvalidValueError,
    MemoryLockedError,
    MemoryMovedError,
    MemoryNotFoundError,
)
from megacontext.memory.layout import LOCK_FILE, REGIST_LOCK_FILE, REWRITE_LOCK_FILE
from megacontext.memory.lock import RewriteLock, WriterLock
from megacontext.memory.parts import LazyGister, Parts
from megacontext.memory.regist import Regist, require_text
from megacontext.memory.reports import IngestProgress
from megacontext.memory.siblings import NoSiblings
from megacontext.ports.base import BaseSource
from megacontext.ports.catalog import MemoryInfo
from megacontext.runtime.assembly import held_generation, memory_folder, parts_of, recorded_base
from megacontext.runtime.elders import elders, remove_elders
from megacontext.runtime.shapes import AnyBase, Placing, Shape, base_source
from megacontext.storage.generations import Generation, current_generation
from megacontext.values import flag, function

__all__ = ["RegistReport", "drop_old", "regist"]


@dataclass(frozen=True, kw_only=True)
class RegistReport:
    """What a move did.

    info: what the memory is made of now; old_info: what it was made of; num_sources, num_tokens: that it has now,
    old_num_tokens: that it had; num_made: sources that this run made, the others were there from one that was stopped;
    freed_bytes: of what was removed; kept: folders of what it was before, kept because somebody asked for it or reads
    it.
    """

    info: MemoryInfo
    old_info: MemoryInfo
    num_sources: int
    num_tokens: int
    old_num_tokens: int
    num_made: int
    freed_bytes: int
    kept: tuple[str, ...]
    seconds: float


def regist(
    path: str | PathLike[str],
    *,
    base: AnyBase | None = None,
    gister: str | None = None,
    block_tokens: int | None = None,
    gist_width: int | None = None,
    keep_old: bool | None = None,
    restart: bool = False,
    lossy_tokens: bool = False,
    old_base: AnyBase | None = None,
    dtype: str = "auto",
    device: str = "auto",
    base_config: str | PathLike[str] | None = None,
    api_key: str | None = None,
    progress: Callable[[IngestProgress], None] | None = None,
) -> RegistReport:
    """Move a memory to another base, or give it other gists or blocks: tokens, gists and index are made again from the
    raw sources, which stay as they are.

    Sources keep their names, versions, labels, roles, times and numbers, so that quotations give the same bytes; token
    positions change. Meanwhile others read and write. A run that was stopped, however, goes on when it is called again.

    Args:
        path: the memory's folder.
        base: as ``open`` takes it; None: the one that the memory has, to change the rest.
        gister: None: the base's own learned gists, or else the memory's.
        block_tokens, gist_width: None: the memory's.
        keep_old: leave all that the memory was before, in ``generations/N`` or, the first, in its folder; ``drop_old``
            removes it. None: what the run that was stopped was asked, else False.
        restart: give up what an earlier run left.
        lossy_tokens: of tokens that were appended without a text and are others once they were text, take that text.
        old_base: the base that the memory was made with, where its name does not find it; only tokens need it.
        dtype, device, base_config, api_key: as for ``open``.
        progress: told how far it is, as by an ingest; it stops the work if it raises.

    The new base is loaded first: what the memory was is not given up for a model that cannot answer.

    Raises: InvalidValueError (it is made so already), BaseModelError (the new base), BaseMismatchError (an unfinished
        move to another base), InvalidTokensError (tokens that no text gives), MemoryLockedError, MemoryReadOnlyError,
        StorageError, CorruptionError naming the source; nothing of the memory has changed then.
    """
    began = time.perf_counter()
    folder = memory_folder(path)
    shape = Shape.of(gister, block_tokens, gist_width)
    placing = Placing.of(dtype, device, base_config=base_config, api_key=api_key)
    keep_old = keep_old if keep_old is None else flag("keep_old", keep_old)
    restart = flag("restart", restart)
    lossy_tokens = flag("lossy_tokens", lossy_tokens)
    if progress is not None:
        function("progress", progress, of="IngestProgress")
    with ExitStack() as stack:
        generation, hold = held_generation(folder, read_only=False)
        stack.callback(hold.release)
        catalog = stack.enter_context(closing(SqliteCatalog.open(generation.folder, read_only=True)))
        refuse_lost_commits(generation.folder)
        old_source = recorded_base(old_base, catalog.info, folder, placing)
        source = old_source if base is None else base_source(base, placing)
        wanted = shape.info(source, like=catalog.info)
        is_done = _is_same(wanted, catalog.info)
        if is_done and not generation.owes_removal:
            raise _nothing_to_do(folder, wanted)
        _lock(stack, folder / REGIST_LOCK_FILE, doing="moved to another base")
        if current_generation(folder) != generation:  # it would be taken for what an earlier run left
            raise MemoryMovedError(f"{folder} was moved to another base just now; look at it, then try again")
        stack.enter_context(RewriteLock(folder / REWRITE_LOCK_FILE).shared())
        num_made, num_tokens = 0, catalog.state().num_tokens
        if not is_done:  # else an earlier run was stopped behind the switch
            source.load()
            old = _parts(catalog, old_source, generation)
            work = _Work(generation, wanted, source, old, lossy_tokens=lossy_tokens, progress=progress)
            keep_old, num_made, num_tokens = work.run(stack, restart=restart, keep_old=keep_old)
        else:
            _lock(stack, folder / LOCK_FILE)
        old_num_tokens, num_sources = catalog.state().num_tokens, catalog.state().num_sources
        catalog.close()
        hold.release()
        freed_bytes, kept = (0, elders(folder)) if keep_old else remove_elders(folder)
        return RegistReport(
            info=wanted,
            old_info=catalog.info,
            num_sources=num_sources,
            num_tokens=num_tokens,
            old_num_tokens=old_num_tokens,
            num_made=num_made,
            freed_bytes=freed_bytes,
            kept=tuple(str(one.folder) for one in kept),
            seconds=time.perf_counter() - began,
        )


def drop_old(path: str | PathLike[str]) -> tuple[int, tuple[str, ...]]:
    """Remove what a memory was before it was moved; bytes that are free now, and folders that somebody reads and that
    stay for that.

    Raises: MemoryNotFoundError, MemoryLockedError, MemoryReadOnlyError, StorageError.
    """
    folder = memory_folder(path)
    SqliteCatalog.open(current_generation(folder).folder, read_only=True).close()
    with ExitStack() as stack:
        _lock(stack, folder / REGIST_LOCK_FILE, doing="moved to another base")
        _lock(stack, folder / LOCK_FILE)
        freed_bytes, kept = remove_elders(folder)
    return freed_bytes, tuple(str(one.folder) for one in kept)


class _BeingMade(NoSiblings):
    """``Siblings`` of the generation that is made: it removes no blob, since the others' are not its own."""

    def named_digests(self) -> set[str] | None:
        return None


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """The generation that is made, open."""

    catalog: SqliteCatalog
    work: Regist


class _Work:
    """One run: from whatever an earlier one left to the switch."""

    def __init__(
        self,
        generation: Generation,
        wanted: MemoryInfo,
        source: BaseSource,
        old: Parts,
        *,
        lossy_tokens: bool,
        progress: Callable[[IngestProgress], None] | None,
    ) -> None:
        self._folder = generation.memory_folder
        self._next = generation.next
        self._wanted = wanted
        self._source = source
        self._old = old
        self._lossy_tokens = lossy_tokens
        self._progress = progress

    def run(self, stack: ExitStack, *, restart: bool, keep_old: bool | None) -> tuple[bool, int, int]:
        """Whether what the memory was is kept, sources that were made, and tokens that the memory has now. stack: holds
        the writer's lock from the last step on."""
        if restart or not self._is_to_go_on():
            self._remove()
        keep_old = self._next.keeps_old if keep_old is None else keep_old
        if not self._lossy_tokens and not self._next.has_catalog:
            require_text(self._old, self._source.codec)
        self._next.begin(keeps_old=keep_old)
        with self._opened() as begun:
            begun.work.copy()
            _lock(stack, self._folder / LOCK_FILE)
            begun.work.finish()
            made = begun.work.num_copied, begun.work.num_tokens
        self._next.finish(owes_removal=not keep_old)
        return keep_old, *made

    def _is_to_go_on(self) -> bool:
        """Whether what an earlier run left is the beginning of what is to be made.

        Raises: BaseMismatchError if it is for another base or shape; CorruptionError.
        """
        try:
            if not self._next.has_catalog:
                return False
            with self._opened() as begun:
                found = begun.catalog.info
                if _is_same(found, self._wanted):
                    return begun.work.can_go_on()
        except MemoryNotFoundError:  # killed before there was anything
            return False
        except CorruptionError as error:
            reason = str(error).partition(";")[0]
            raise CorruptionError(
                f"what an earlier run left is damaged ({reason}); begin anew with --restart"
            ) from error
        raise BaseMismatchError(
            f"{self._folder} is being moved to {_named(found)} already, not to {_named(self._wanted)}; finish that "
            f"with `{_command(self._folder, found, self._next.keeps_old)}`, or give it up with --restart (restart=True)"
        )

    def _remove(self) -> None:
        if not self._next.remove():
            raise MemoryLockedError(f"{self._next.folder} is read by another process; end that, then try again")

    @contextmanager
    def _opened(self) -> Iterator[_Begun]:
        if self._next.has_catalog:
            catalog = SqliteCatalog.open(self._next.folder)
        else:
            catalog = SqliteCatalog.create(self._next.folder, self._wanted)
        with closing(catalog):
            new = _parts(catalog, self._source, self._next, siblings=_BeingMade())
            work = Regist(self._old, new, lossy_tokens=self._lossy_tokens, progress=self._progress)
            yield _Begun(catalog=catalog, work=work)


def _parts(
    catalog: SqliteCatalog, source: BaseSource, generation: Generation, siblings: NoSiblings | None = None
) -> Parts:
    parts = parts_of(catalog, source, generation)
    gister = LazyGister(parts.pop("gister"), catalog.info)
    return Parts(**parts, codec=source.codec, gister=gister, siblings=siblings or NoSiblings())


def _lock(stack: ExitStack, path: Path, *, doing: str = "written") -> None:
    """Hold a lock until the stack ends."""
    lock = WriterLock(path, doing=doing)
    lock.acquire()
    stack.callback(lock.release)


def _is_same(info: MemoryInfo, other: MemoryInfo) -> bool:
    """Whether two memories would have the same tokens and gists."""
    said = {"base_name": "", "base_revision": "", "created_at": 0.0}
    return dataclasses.replace(info, **said) == dataclasses.replace(other, **said)  # type: ignore[arg-type]


def _nothing_to_do(folder: Path, info: MemoryInfo) -> InvalidValueError:
    left = f"; `megacontext regist {folder} --drop-old` removes what it was before" if elders(folder) else ""
    return InvalidValueError(
        f"{folder} is of {_named(info)} already, there is nothing to do; give another base, gister or shape{left}"
    )


def _named(info: MemoryInfo) -> str:
    return (
        f"{info.base_name} ({info.base_fingerprint[:12]}) with {info.gister_name} gists, {info.gist_width} per "
        f"{info.block_tokens} tokens"
    )


def _command(folder: Path, info: MemoryInfo, keeps_old: bool) -> str:
    words = ["megacontext", "regist", str(folder), "--base", info.base_name, "--gister", info.gister_name]
    words += ["--block-tokens", str(info.block_tokens), "--gist-width", str(info.gist_width)]
    return shlex.join([*words, "--keep-old"] if keeps_old else words)
