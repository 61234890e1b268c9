"""Ends a stream that has fallen silent.

The HTTP library has one limit for all reads of an answer. What counts here is events: a server that only keeps the
connection alive is as silent as one that sends nothing.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import httpx2

__all__ = ["Watchdog"]


class Watchdog:
    """Shuts the connection of a response down when its time is over; the reader then gets a ``ReadTimeout``.

    Time runs only while somebody waits for the server: whoever takes long over what came is no silence. first_s: until
    ``extend`` is called first.
    """

    def __init__(self, response: httpx2.Response, *, first_s: float) -> None:
        self._response = response
        self._seconds = self._left_s = first_s
        self._deadline: float | None = None  # while somebody waits
        self._changed = threading.Condition()
        self._is_over = self._has_bitten = False
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)

    def extend(self, seconds: float) -> None:
        """Something came: so long until the next."""
        with self._changed:
            self._seconds = self._left_s = seconds

    def watched(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of the response, until silence ended it."""
        waiting = iter(pieces)
        while True:
            try:
                with self._waiting():
                    piece = next(waiting, None)
            except httpx2.TransportError as error:
                if not self._has_bitten:
                    raise
                raise self._silence() from error
            if self._has_bitten:
                raise self._silence()
            if piece is None:
                return
            yield piece

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.monotonic()
        self._set(began + self._left_s)
        try:
            yield
        finally:
            self._set(None)
            self._left_s -= time.monotonic() - began

    def _set(self, deadline: float | None) -> None:
        with self._changed:
            self._deadline = deadline
            self._changed.notify()

    def _silence(self) -> httpx2.ReadTimeout:
        return httpx2.ReadTimeout(f"silent for {self._seconds:g} s", request=self._response.request)

    def _watch(self) -> None:
        with self._changed:
            while not self._is_over:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._has_bitten = True
                    break
                self._changed.wait(left)
        if self._has_bitten:
            with suppress(OSError, LookupError, AttributeError):  # gone already
                stream = self._response.extensions["network_stream"]
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()
