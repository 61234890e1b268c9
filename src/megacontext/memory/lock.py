"""Operating-system locks, which die with their processes: one writer at a time, and the name of who it is; no copy of
a memory while what is sealed in it is rewritten; and one run in a folder.

The process id stands in a file of its own, because a contender may empty the lock file itself; it is only ever used
for the message. A lock file or id left behind by a dead process means nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from megacontext.errors import MegaContextError, MemoryLockedError, MemoryReadOnlyError, StorageError, StorageFullError

__all__ = ["RewriteLock", "RunLock", "WriterLock", "is_locked"]


class WriterLock:
    """The right to change a memory. Taken by ``acquire``, held until ``release`` or the end of the process.

    doing: what whoever holds it is at, for the message.
    """

    def __init__(self, path: Path | None, *, doing: str = "written") -> None:
        self._path = path
        self._doing = doing
        self._lock = None if path is None else filelock.FileLock(path, thread_local=False)
        self.held = False

    def acquire(self) -> None:
        """Take the lock; free if it is held by this object already.

        Raises: MemoryLockedError naming the process that holds it; MemoryReadOnlyError if the folder is read-only;
        StorageFullError.
        """
        if self.held:
            return
        if self._lock is not None and self._path is not None:
            try:
                self._lock.acquire(timeout=0)
                self._sign()
            except filelock.Timeout as error:
                raise MemoryLockedError(
                    f"{self._path.parent} is being {self._doing} by process {self._owner()}; "
                    "close it there or wait; meanwhile it can be read"
                ) from error
            except OSError as error:
                self._lock.release()
                raise _fault(error, self._path.parent) from error
        self.held = True

    def release(self) -> None:
        """Let others write; free if the lock is not held."""
        if self.held and self._lock is not None:
            with suppress(OSError):  # what was done under the lock is done, and a left id means nothing
                self._owner_path.unlink(missing_ok=True)
            self._lock.release()
        self.held = False

    def _sign(self) -> None:
        """Say who holds the lock, unless the disk is full: what makes room again needs the lock, too."""
        try:
            self._owner_path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            if error.errno not in StorageFullError.codes:
                raise

    @property
    def _owner_path(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".pid")

    def _owner(self) -> str:
        try:
            return self._owner_path.read_text().strip() or "(unknown)"
        except OSError:
            return "(unknown)"


class RewriteLock:
    """Keeps rewriting apart from looking at everything.

    What is sealed never changes, except when a source is erased or damage is repaired: these do so alone. Exports and
    checks, which compare files with the catalog, share the lock. Neither waits for the other. path: the lock file,
    made when it is first needed; None where no other process can reach the memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While files are rewritten; the caller is the one writer.

        Raises: MemoryLockedError, MemoryReadOnlyError, StorageFullError.
        """
        if self._path is None:
            yield
            return
        try:
            descriptor = self._open(os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise _fault(error, self._path.parent) from error
        try:
            if not _lock(descriptor, shared=False):
                raise MemoryLockedError(
                    f"{self._path.parent} is being exported, checked or moved to another base; "
                    "try again when that is done"
                )
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While all files are read. Also where nothing may be written: without a lock if nothing there was ever
        rewritten, but not if somebody begins to meanwhile.

        Raises: MemoryLockedError, at the end if need be.
        """
        descriptor = self._open_to_share()
        try:
            if descriptor is not None and not _lock(descriptor, shared=True):
                raise MemoryLockedError(self._being_rewritten())
            yield
            if descriptor is None and self._path is not None and self._path.exists():
                raise MemoryLockedError(self._being_rewritten())
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open(self, flags: int) -> int:
        assert self._path is not None
        return os.open(self._path, flags, 0o666)

    def _open_to_share(self) -> int | None:
        if self._path is None:
            return None
        for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
            try:
                return self._open(flags)
            except OSError:  # a folder or a file that we may only read, or a disk without room for the file
                continue
        return None

    def _being_rewritten(self) -> str:
        assert self._path is not None
        return f"{self._path.parent} is being erased from or repaired; try again when that is done"


class RunLock:
    """The right to write the folder of a run, training or evaluation, from now until ``release`` or the end of the
    process. A folder that is made for it and stays empty is taken away again.

    Raises MemoryLockedError if another run writes it.
    """

    def __init__(self, folder: Path) -> None:
        self._is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "run.lock"
        self._lock = filelock.FileLock(self._path, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise MemoryLockedError(
                f"{folder} is being written by another run; wait for it, or choose another folder with --out"
            ) from error

    def release(self) -> None:
        """Let others write; what the run wrote stays."""
        self._path.unlink(missing_ok=True)
        self._lock.release()
        if self._is_new:
            with suppress(OSError):  # it holds something
                self._path.parent.rmdir()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds a ``WriterLock`` of this file just now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # there is none
        return False
    try:
        return not _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, shared: bool) -> bool:
    """Take the lock if nobody is in the way; closing the descriptor gives it back."""
    import fcntl  # here, since not every system has it

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fault(error: OSError, folder: Path) -> MegaContextError:
    if error.errno in StorageFullError.codes:
        return StorageFullError.of(error.errno, f"locking {folder}")
    if isinstance(error, IsADirectoryError):
        return StorageError(f"{error.filename} is a folder, and a lock is to stand there; remove it")
    return MemoryReadOnlyError(
        f"{folder} cannot be written ({error.strerror}); change its permissions, or only read from it"
    )
