"""Chunks that are fetched before somebody asks: they land in the cache that every read looks into first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from threading import Lock
from typing import Any

from megacontext.ports.arrays import ArraySpec

__all__ = ["ReadAhead"]

CACHE_SHARE = 2  # what was fetched ahead may fill one part of so many of the store's own cache
MOST_UNDER_WAY = 64  # reads that have not come back yet


class ReadAhead:
    """Remembers what it fetched lately, so that the same guess, refocus after refocus, costs next to nothing.

    cache_bytes: of the cache that the chunks land in.
    """

    def __init__(self, *, cache_bytes: int) -> None:
        self._most_bytes = cache_bytes // CACHE_SHARE
        self._lately: OrderedDict[tuple[str, int], int] = OrderedDict()  # bytes of each chunk
        self._num_bytes = 0
        self._under_way: deque[Any] = deque()
        self._lock = Lock()

    def fetch(self, spec: ArraySpec, array: Any, chunks: Iterable[int]) -> None:
        """Begin to read chunks. array: an open TensorStore array with a cache."""
        with self._lock:
            while self._under_way and self._under_way[0].done():
                self._under_way.popleft()
            for chunk in chunks:
                if (spec.name, chunk) in self._lately:
                    self._lately.move_to_end((spec.name, chunk))
                elif len(self._under_way) < MOST_UNDER_WAY and spec.chunk_bytes <= self._most_bytes:
                    first = chunk * spec.chunk_rows
                    self._under_way.append(array[first : first + 1].read())
                    self._remember(spec.name, chunk, spec.chunk_bytes)

    def forget(self) -> None:
        """Fetch again what was fetched: it has changed, or did not come."""
        with self._lock:
            self._lately.clear()
            self._num_bytes = 0

    def _remember(self, name: str, chunk: int, num_bytes: int) -> None:
        self._lately[name, chunk] = num_bytes
        self._num_bytes += num_bytes
        while self._num_bytes > self._most_bytes:
            self._num_bytes -= self._lately.popitem(last=False)[1]
