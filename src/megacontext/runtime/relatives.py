"""The generations of one memory as they know each other: what the others name, and whether they still count."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import (
    BaseMismatchError,
    BaseModelError,
    CorruptionError,
    DeviceMemoryError,
    MegaContextError,
    MemoryLockedError,
    MemoryMovedError,
    MemoryNotFoundError,
    ServerError,
    UnknownNameError,
)
from megacontext.memory.layout import REGIST_LOCK_FILE
from megacontext.memory.lock import is_locked
from megacontext.memory.memory import Memory
from megacontext.memory.orphans import named_digests
from megacontext.storage.generations import Generation, Hold, all_generations, current_generation

__all__ = ["Elder", "Relatives", "digests_of_others"]

_log = logging.getLogger(__name__)


class Relatives:
    """``Siblings`` of a generation that is open.

    hold: keeps it from being removed; open_elder: opens another one to be erased from, under the locks of this one.
    """

    def __init__(self, generation: Generation, hold: Hold, open_elder: Callable[[Generation], Memory]) -> None:
        self._generation = generation
        self._hold = hold
        self._open_elder = open_elder

    def require_newest(self) -> None:
        newest = current_generation(self._generation.memory_folder)
        if newest.number > self._generation.number:
            raise MemoryMovedError(
                f"{self._generation.memory_folder} was moved to another base since it was opened; open it again"
            )

    def named_digests(self) -> set[str] | None:
        if is_locked(self._generation.memory_folder / REGIST_LOCK_FILE):
            return None
        return digests_of_others(self._generation)

    def erase(self, uri: str) -> None:
        """Where something is in the way that may pass (a full disk, a server that does not answer), that is raised;
        what never can be erased from again is removed, and so is what was being removed when something came between:
        its arrays may lie there still."""
        for left in _half_removed(self._generation):
            if not left.remove():
                raise MemoryLockedError(
                    f"{left.folder} is what the memory was for another base, was to be removed, and is read by another "
                    "process; end that, then erase again"
                )
        for other in others(self._generation):
            try:
                with self._open_elder(other) as elder:
                    if any(source.uri == uri for source in elder.sources()):
                        elder.erase(uri)
            except MegaContextError as error:
                if not _is_for_good(error):
                    raise
                if not other.remove():
                    raise MemoryLockedError(
                        f"{other.folder} is what the memory was for another base, cannot be erased from ({error}), "
                        "and is read by another process; end that, then erase again"
                    ) from error
                _log.warning("%s cannot be erased from, and was removed: %s", other.folder, error)

    def num_bytes(self) -> tuple[int, int]:
        number = self._generation.number
        every = all_generations(self._generation.memory_folder)
        older = sum(other.num_bytes() for other in every if other.number < number)
        return older, sum(other.num_bytes() for other in every if other.number > number)

    def close(self) -> None:
        self._hold.release()


class Elder:
    """``Siblings`` of a generation that is opened because a source is erased in all of them."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def require_newest(self) -> None:
        """It need not be."""

    def named_digests(self) -> set[str] | None:
        return digests_of_others(self._generation)

    def erase(self, uri: str) -> None:
        """Whoever opened it does so."""

    def num_bytes(self) -> tuple[int, int]:
        """Those of the others are told by the one that counts."""
        return 0, 0

    def close(self) -> None:
        """Nobody removes it meanwhile."""


def others(generation: Generation) -> Iterator[Generation]:
    """The other generations of a memory, but for those that were being removed when something came between."""
    half_removed = _half_removed(generation)
    for other in all_generations(generation.memory_folder):
        if other != generation and other not in half_removed:
            yield other


def _half_removed(generation: Generation) -> list[Generation]:
    """Without a catalog nobody can tell whether one was coming."""
    current = current_generation(generation.memory_folder)
    return [
        other
        for other in all_generations(generation.memory_folder)
        if other != generation and (not other.has_catalog or (other.is_unfinished and other.number < current.number))
    ]


def _is_for_good(error: MegaContextError) -> bool:
    """Whether what is damaged, or was made for a base or by a gister that is not to be had, is why a generation cannot
    be erased from."""
    if isinstance(error, DeviceMemoryError | ServerError):
        return False
    return isinstance(
        error, CorruptionError | BaseMismatchError | BaseModelError | MemoryNotFoundError | UnknownNameError
    )


def digests_of_others(generation: Generation) -> set[str] | None:
    """The blobs that the other generations name; None if one of them cannot be read and may name anything."""
    digests: set[str] = set()
    for other in others(generation):
        try:
            with closing(SqliteCatalog.open(other.folder, read_only=True)) as catalog:
                digests |= named_digests(catalog)
        except MemoryNotFoundError:  # of one that was begun there is no more than its name
            continue
        except MegaContextError as error:
            _log.warning("%s cannot be read: %s", other.folder, error)
            return None
    return digests
