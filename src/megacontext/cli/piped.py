"""Standard input of any length: kept in a file, since it can be read only once and an ingest reads twice."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import IO, TextIO

from megacontext.errors import UnreadableSourceError
from megacontext.storage.faults import os_faults
from megacontext.storage.locations import local_folder
from megacontext.units import MIB

__all__ = ["open_input", "spooled_input"]

_DOING = "keeping standard input beside the memory"


def open_input(fix: str) -> TextIO:
    """Standard input; UnreadableSourceError, which ends with ``fix``, if the process was started without."""
    if sys.stdin is None:
        raise UnreadableSourceError(f"standard input is closed; {fix}")
    return sys.stdin


def spooled_input(memory: str) -> IO[bytes]:
    """All of standard input in a file without a name in the memory's folder; whoever gets it closes it.

    There, since ``/tmp`` is a part of the machine's RAM in many places, while a memory is where much is to be kept
    anyway; without a name, so that nothing is left however the process ends.

    Raises: StorageFullError, MemoryReadOnlyError, StorageError.
    """
    open_input("pipe a text into it")
    folder = (local_folder(memory) or Path(memory)).expanduser()
    with os_faults(_DOING):
        # unbuffered: a buffer that found no room would be written, and fail, once more when the file is closed
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by whoever gets it
    try:
        while piece := sys.stdin.buffer.read(MIB):
            with os_faults(_DOING):
                _write(file, piece)
    except BaseException:
        file.close()
        raise
    return file


def _write(file: IO[bytes], data: bytes) -> None:
    """All of it: a write may take a part, and says how much."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
