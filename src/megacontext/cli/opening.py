"""How verbs open a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megacontext.runtime.opened import OpenedMemory

__all__ = ["open_memory"]


def open_memory(path: str, *, read_only: bool = True, gister: str | None = None) -> OpenedMemory:
    """An existing memory, with the base that it was made with."""
    from megacontext.runtime import assembly

    return assembly.open(path, read_only=read_only, gister=gister)
