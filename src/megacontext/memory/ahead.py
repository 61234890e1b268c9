"""Work that is done beside other work: the next things are made in a thread while the caller uses the last."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["one_ahead"]

Thing = TypeVar("Thing")


def one_ahead(things: Iterator[Thing], *, waits_for: Callable[[Thing], bool] = lambda _: False) -> Generator[Thing]:
    """The same things, the next one made in a thread while the caller works on this one.

    waits_for: whether the next one may only be begun when the caller is done with this one.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, things, None)
        while (thing := coming.result()) is not None:
            if waits_for(thing):
                yield thing
                coming = pool.submit(next, things, None)
            else:
                coming = pool.submit(next, things, None)
                yield thing
