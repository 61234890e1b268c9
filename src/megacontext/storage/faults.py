"""What the operating system and TensorStore report, as errors of ours."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from megacontext.errors import (
    CorruptionError,
    MegaContextError,
    MemoryReadOnlyError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
)

__all__ = ["os_faults", "storage_fault", "tensorstore_fault"]

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_OS_CODES = {"RESOURCE_EXHAUSTED": errno.ENOSPC, "PERMISSION_DENIED": errno.EACCES}  # of stores that give none
_IN_THE_WAY = {errno.EISDIR: "is a folder and should be a file", errno.ENOTDIR: "lies below a file, not a folder"}
_CHANGING = ("writing", "deleting")
_OS_CODE = re.compile(r"os_error_code='(\d+)'")


def storage_fault(code: int | None, doing: str, detail: str, object_name: str = "") -> MegaContextError:
    """The error for an operating-system error number; object_name: the object of the memory that it is about."""
    if code in StorageFullError.codes:
        return StorageFullError.of(code, doing)
    if code in _READ_ONLY:
        if object_name and not doing.startswith(_CHANGING):
            return StorageError(f"{object_name} cannot be read ({detail}); make it and its folders readable")
        refused = StorageError if doing.startswith("reading") else MemoryReadOnlyError
        return refused(f"not permitted while {doing} ({detail}); change the permissions of the folder")
    if object_name and code in _IN_THE_WAY:
        # no semicolon: a check says all of it, because a repair that removes nothing it did not write cannot mend this
        fix = "remove what stands in its place, then run 'megacontext check --repair'"
        return StorageError(f"{object_name} {_IN_THE_WAY[code]}: {fix}")
    named = f" at {object_name}" if object_name and object_name not in doing else ""
    return StorageError(f"{doing} failed{named}: {detail}")


@contextmanager
def os_faults(doing: str, object_name: str = "") -> Iterator[None]:
    """Translate an OSError of the block; ``doing`` completes "failed while ...", object_name as `storage_fault`."""
    try:
        yield
    except OSError as error:
        raise storage_fault(error.errno, doing, error.strerror or str(error), object_name) from error


def tensorstore_fault(error: Exception, *, doing: str, object_name: str) -> MegaContextError:
    """The error for what TensorStore raised: its text begins with a status code.

    A shard that is missing, cut short or fails its checksum is corruption: callers read only what the catalog says
    is sealed.
    """
    if isinstance(error, TimeoutError):
        return StorageTimeoutError(
            f"{doing} took too long: {object_name} is on a disk or store that does not answer; try again, or open the "
            "memory with a larger read_timeout_s"
        )
    text = str(error)
    status = text.partition(":")[0]
    if (os_code := _OS_CODE.search(text)) is not None:
        return _os_fault(int(os_code.group(1)), doing, object_name)
    if status in _OS_CODES:
        return _os_fault(_OS_CODES[status], doing, object_name)
    problems = {
        "NOT_FOUND": "is missing",
        "DATA_LOSS": "fails its checksum",
        "FAILED_PRECONDITION": "is damaged",
        "OUT_OF_RANGE": "is cut short",
        "INVALID_ARGUMENT": "is damaged",
    }
    if status in problems:
        return CorruptionError(f"{object_name} {problems[status]} ({doing}); run 'megacontext check --repair'")
    return StorageError(f"{doing} failed at {object_name}: {_first_line(text)}")


def _os_fault(code: int, doing: str, object_name: str) -> MegaContextError:
    return storage_fault(code, doing, os.strerror(code), object_name)


def _first_line(text: str) -> str:
    return text.partition(" [")[0].partition("\n")[0]
