"""What other packages bring under an entry point: found by name, imported when it is needed.

A part that cannot be imported is an error of its package, and is told as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from megacontext.errors import MegaContextError, UsageError
from megacontext.values import reason_of

__all__ = ["brought"]


def brought(group: str, name: str, *, kind: str) -> Any | None:
    """The part of that name; None if no package brings one. UsageError for one that cannot be imported."""
    for entry in entry_points(group=group, name=name):
        with _failing(entry, kind):
            return entry.load()
    return None


@contextmanager
def _failing(entry: EntryPoint, kind: str) -> Iterator[None]:
    """Somebody else's exception as one line that says whose it is; our own errors as they are."""
    try:
        yield
    except MegaContextError:
        raise
    except Exception as error:
        owner = entry.dist.name if entry.dist is not None else entry.module
        raise UsageError(
            f"{owner}, which brings the {kind} {entry.name!r}, cannot be imported "
            f"({type(error).__name__}: {reason_of(error)}); update or uninstall it"
        ) from error
