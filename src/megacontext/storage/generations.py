"""The generations of a memory: what is derived from its raw sources, once per base that it was moved to.

A catalog and its arrays are one generation. The first lies in the memory's folder itself, later ones in
``generations/1``, ``generations/2`` ...; raw sources and locks are shared. The highest one that is whole counts. While
one is made or removed a file ``unfinished`` lies in it: taking that away is one step of the file system, and that step
is the switch.

Whoever opens a generation holds it (a shared lock of its folder, which dies with the process), so that none is removed
under a reader.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from megacontext.storage.faults import os_faults
from megacontext.storage.listing import file_sizes
from megacontext.storage.syncing import sync
from megacontext.storage.zarr_layout import ARRAYS_FOLDER

__all__ = [
    "DROP_OLD_FILE",
    "GENERATIONS_FOLDER",
    "KEEP_OLD_FILE",
    "UNFINISHED_FILE",
    "Generation",
    "Hold",
    "all_generations",
    "current_generation",
]

GENERATIONS_FOLDER = "generations"
UNFINISHED_FILE = "unfinished"
DROP_OLD_FILE = "drop-old"
KEEP_OLD_FILE = "keep-old"
_CATALOG = "catalog."  # what the names of its files begin with


@dataclass(frozen=True)
class Generation:
    """One generation: the folder of its memory, and its number; 0 is the first."""

    memory_folder: Path
    number: int

    @classmethod
    def at(cls, folder: Path) -> Generation | None:
        """The later one whose own folder this is, if it is one."""
        if folder.parent.name == GENERATIONS_FOLDER and folder.name.isdecimal() and int(folder.name):
            return cls(folder.parent.parent, int(folder.name))
        return None

    @property
    def folder(self) -> Path:
        """Where its catalog and its arrays lie."""
        return self.memory_folder / GENERATIONS_FOLDER / str(self.number) if self.number else self.memory_folder

    @property
    def next(self) -> Generation:
        return Generation(self.memory_folder, self.number + 1)

    @property
    def has_catalog(self) -> bool:
        """Also if one of the two copies is lost: it is damaged then, and counts."""
        return any(True for _ in self.folder.glob(f"{_CATALOG}*"))

    @property
    def is_unfinished(self) -> bool:
        return self._marker.exists()

    @property
    def owes_removal(self) -> bool:
        """Whether those before it are still to be removed: a crash, or somebody who reads them, was in the way."""
        return self._debt.exists()

    @property
    def keeps_old(self) -> bool:
        """Whether the run that began it was asked to keep those before it."""
        return self._wish.exists()

    @property
    def _wish(self) -> Path:
        return self.folder / KEEP_OLD_FILE

    @property
    def _marker(self) -> Path:
        return self.folder / UNFINISHED_FILE

    @property
    def _debt(self) -> Path:
        return self.folder / DROP_OLD_FILE

    def num_bytes(self) -> int:
        """Of its catalog and arrays."""
        with os_faults(f"looking at {self.folder}"):
            catalog = sum(path.stat().st_size for path in self.folder.glob(f"{_CATALOG}*"))
            return catalog + sum(size for _, size in file_sizes(self.folder / ARRAYS_FOLDER))

    def begin(self, *, keeps_old: bool) -> None:
        """Make its folder, as one that does not count yet, or go on with it. keeps_old: told to a later run."""
        with os_faults(f"creating {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
            if keeps_old:
                self._wish.touch()
            else:
                self._wish.unlink(missing_ok=True)
            for folder in (self.folder, self.folder.parent, self.memory_folder):
                sync(folder)

    def finish(self, *, owes_removal: bool) -> None:
        """From here on it counts: the switch. owes_removal: of those before it, until ``settle`` says it is done."""
        with os_faults(f"switching to {self.folder}"):
            if owes_removal:
                self._debt.touch()
            for path in self.folder.glob(f"{_CATALOG}*"):
                sync(path)
            self._wish.unlink(missing_ok=True)
            sync(self.folder)
            self._marker.unlink()
            sync(self.folder)

    def settle(self) -> None:
        """Those before it are gone."""
        with os_faults(f"deleting {self._debt}"):
            self._debt.unlink(missing_ok=True)

    def remove(self) -> bool:
        """Delete it, unless somebody holds it; whether it is gone. What is left after a crash does not count, and the
        next call takes it away."""
        if not _is_there(self):
            return True
        hold = Hold(self.folder, alone=True)
        if not hold.is_held:
            return False
        try:
            with os_faults(f"deleting {self.folder}"):
                self._marker.touch()
                sync(self.folder)
                for path in sorted(self.folder.glob(f"{_CATALOG}*")):
                    path.unlink()
                if (self.folder / ARRAYS_FOLDER).is_dir():
                    shutil.rmtree(self.folder / ARRAYS_FOLDER)
                sync(self.folder)
                self._debt.unlink(missing_ok=True)
                self._wish.unlink(missing_ok=True)
                self._marker.unlink()
                if self.number:
                    self.folder.rmdir()
                    with suppress(OSError):  # others lie there
                        self.folder.parent.rmdir()
                sync(self.memory_folder)
        finally:
            hold.release()
        return True


def all_generations(memory_folder: Path) -> list[Generation]:
    """All of which something is there, whole or not, in ascending order."""
    first = Generation(memory_folder, 0)
    later = [Generation(memory_folder, number) for number in _numbers(memory_folder)]
    return [first, *later] if _is_there(first) else later


def _is_there(generation: Generation) -> bool:
    return generation.is_unfinished or generation.has_catalog or (generation.folder / ARRAYS_FOLDER).is_dir()


def current_generation(memory_folder: Path) -> Generation:
    """The one that counts; the first where there is none at all."""
    with os_faults(f"opening {memory_folder}"):
        whole = [one for one in all_generations(memory_folder) if one.has_catalog and not one.is_unfinished]
    return whole[-1] if whole else Generation(memory_folder, 0)


def _numbers(memory_folder: Path) -> list[int]:
    try:
        with os.scandir(memory_folder / GENERATIONS_FOLDER) as entries:
            return sorted(int(entry.name) for entry in entries if entry.name.isdecimal() and int(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        if os.access(memory_folder, os.X_OK):
            raise
        return []  # opening the catalog says why nothing can be looked up there


class Hold:
    """Keeps a generation from being removed, or, ``alone``, from being opened; it dies with the process. Where a
    folder cannot be locked (some network disks) nobody holds anything."""

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self._descriptor: int | None = None
        self.is_held = True
        try:
            import fcntl  # here, since not every system has it

            self._descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_held = False
            self.release()
        except (ImportError, OSError):
            self.release()

    def release(self) -> None:
        """Let it go; releasing twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
