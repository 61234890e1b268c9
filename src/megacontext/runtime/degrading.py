"""What a session does when a store is slow or dead: it shows less detail, and says so.

A question then gets an answer from what can be read, instead of none. What lies in the store is whole, so the next
refocus asks for the detail again. Damaged data is another matter: it is an error, because it does not heal by waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megacontext.errors import CorruptionError, StorageError
from megacontext.focus.pins import Spans
from megacontext.focus.working_context import WorkingContext
from megacontext.memory.reads import TreeReader

__all__ = ["show_less", "unless_damaged"]


@contextmanager
def unless_damaged(failures: list[StorageError]) -> Iterator[None]:
    """Gather what a store that does not answer raises in the block; damage goes on to the caller."""
    try:
        yield
    except CorruptionError:
        raise
    except StorageError as error:
        failures.append(error)


def show_less(wc: WorkingContext, reader: TreeReader, failure: StorageError) -> str:
    """Close what cannot be read until all that is left can; what to tell people.

    Raises: ``failure`` if that is not possible, because what cannot be read is pinned or has nothing above it.
    """
    num_tokens = 0
    unreadable = ~reader.can_read(wc.cut)
    if not unreadable.any():
        raise failure  # whatever failed, closing entries would not help
    before = wc.rows
    while unreadable.any():
        num_tokens = max(num_tokens, int((wc.stops - wc.starts)[unreadable].sum()))
        if wc.close_rows(unreadable) is None:
            wc.become(before, Spans(wc.pins), budget_entries=wc.budget_entries)
            raise failure
        unreadable = ~reader.can_read(wc.cut)
    return f"{num_tokens:,} tokens are shown less finely than they should be, because {failure}"
