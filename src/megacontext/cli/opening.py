"""How verbs open a memory."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from megacontext.cli.screen import error_console
from megacontext.errors import MemoryLockedError, MemoryReadOnlyError, StorageFullError

if TYPE_CHECKING:
    from megacontext.runtime.opened import OpenedMemory

__all__ = ["open_for_questions", "open_memory"]


def open_memory(path: str, *, read_only: bool = True, gister: str | None = None) -> OpenedMemory:
    """An existing memory, with the base that it was made with."""
    from megacontext.runtime import assembly

    return assembly.open(path, read_only=read_only, gister=gister)


def open_for_questions(path: str, *, gister: str | None = None) -> OpenedMemory:
    """The same for reading, after the gists that an interrupted ingest left behind were stored, if that is possible:
    every question would compute them again."""
    opened = open_memory(path, gister=gister)
    if not opened.is_missing_gists:
        return opened
    opened.close()
    console = error_console()
    storing = "storing the gists that an interrupted ingest left to be computed, once"
    with (
        suppress(MemoryLockedError, MemoryReadOnlyError, StorageFullError),
        open_memory(path, read_only=False, gister=gister) as writer,
        console.status(f"[dim]{storing}[/dim]"),
    ):
        if not console.is_terminal:  # nobody sees the status, and it may take minutes
            console.print(storing)
        writer.store_gists()
    return open_memory(path, gister=gister)
