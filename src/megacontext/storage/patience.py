"""How long reads wait for a store, so that a dead one never hangs who asks it.

A read that finds nothing for the whole of its time says so, and the ones after it wait much less for a while: an answer
that has to do without a store would else wait for it again at every step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

__all__ = ["READ_TIMEOUT_S", "Patience"]

READ_TIMEOUT_S = 10.0
DOUBT_S = 30.0  # how long a store that did not answer is doubted
DOUBTED_SHARE = 0.1  # of the time, what a read waits meanwhile


class Patience:
    """Waits for futures of one store, at most ``read_timeout_s`` for those of one read. Safe for threads."""

    def __init__(self, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        self._read_timeout_s = read_timeout_s
        self._doubted_until = 0.0

    @property
    def is_doubting(self) -> bool:
        """Whether the store has just let somebody wait in vain."""
        return time.monotonic() < self._doubted_until

    def end(self) -> float:
        """When a read that begins now has to be over, by ``time.monotonic``."""
        share = DOUBTED_SHARE if self.is_doubting else 1.0
        return time.monotonic() + share * self._read_timeout_s

    def wait(self, future: Any, end: float) -> Any:
        """What the future gives; TimeoutError if it is not there by ``end``."""
        (found,) = self.gather([future], end)
        if isinstance(found, Exception):
            raise found
        return found

    def gather(self, futures: Sequence[Any], end: float) -> list[Any]:
        """What each of them gives, or its error; TimeoutErrors for those that are not there by ``end``."""
        found: list[Any] = []
        for future in futures:
            try:
                found.append(future.result(timeout=max(0.0, end - time.monotonic())))
            except TimeoutError as error:
                self._doubted_until = time.monotonic() + DOUBT_S
                found.append(error)
            except (ValueError, OSError) as error:
                found.append(error)
        return found
