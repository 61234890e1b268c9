"""What one generation of a memory has to know of the others.

A memory that was moved to another base may still have what was derived for the base before, and one that is being moved
has part of what comes: they share the raw sources and the locks.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["NoSiblings", "Siblings"]


class Siblings(Protocol):
    """The other generations of a memory, as seen by one that is open."""

    def require_newest(self) -> None:
        """MemoryMovedError if another generation counts by now."""
        ...

    def named_digests(self) -> set[str] | None:
        """The blobs that the others name; None while nobody can say, since one of them is being made."""
        ...

    def erase(self, uri: str) -> None:
        """Forget a source in all of them, or remove those where that is not possible. The caller holds both locks."""
        ...

    def num_bytes(self) -> tuple[int, int]:
        """What catalogs and arrays take of those before this one, and of one that is being made."""
        ...

    def close(self) -> None: ...


class NoSiblings:
    """Of a memory that was never moved, or that no other process can reach."""

    def require_newest(self) -> None:
        """There is none newer."""

    def named_digests(self) -> set[str] | None:
        return set()

    def erase(self, uri: str) -> None:
        """There is nothing to be erased."""

    def num_bytes(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        """There is nothing to be closed."""
