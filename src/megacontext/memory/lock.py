"""One writer at a time: an operating-system lock that dies with its process, and the name of who holds it.

The process id stands in a file of its own, because a contender may empty the lock file itself; it is only ever used
for the message. A lock file or id left behind by a dead process means nothing.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import filelock

from megacontext.errors import MemoryLockedError, MemoryReadOnlyError, StorageFullError

__all__ = ["WriterLock"]


class WriterLock:
    """The right to change a memory. Taken by ``acquire``, held until ``release`` or the end of the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
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
                self._owner_path.write_text(f"{os.getpid()}\n")
            except filelock.Timeout as error:
                raise MemoryLockedError(
                    f"{self._path.parent} is being written by process {self._owner()}; "
                    "close it there, or open the memory for reading only"
                ) from error
            except OSError as error:
                self._lock.release()
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageFullError(
                        f"no space left in {self._path.parent}; nothing was changed, free some space and try again"
                    ) from error
                raise MemoryReadOnlyError(
                    f"{self._path.parent} cannot be written ({error.strerror}); "
                    "change its permissions, or only read from it"
                ) from error
        self.held = True

    def release(self) -> None:
        """Let others write; free if the lock is not held."""
        if self.held and self._lock is not None:
            self._owner_path.unlink(missing_ok=True)
            self._lock.release()
        self.held = False

    @property
    def _owner_path(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".pid")

    def _owner(self) -> str:
        try:
            return self._owner_path.read_text().strip() or "(unknown)"
        except OSError:
            return "(unknown)"
