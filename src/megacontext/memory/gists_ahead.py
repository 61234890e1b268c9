"""Gists of level 1, and of level 2 above them, made in a thread while sources still come in.

They are most of the work of a learned gister (31 of 32 nodes), and all they need is tokens: those of a segment stand
in the array store as soon as it is whole, before any transaction declares them. So shards of gists are written past
the catalog, too, and declared when their tokens are. Whatever goes wrong here is left to whoever keeps the rest.
"""

from __future__ import annotations

import logging
from threading import Condition, Thread
from types import TracebackType
from typing import Self

import numpy as np

from megacontext.errors import MegaContextError
from megacontext.memory.gist_rows import meta_rows
from megacontext.memory.layout import gist_spec, meta_spec, token_spec
from megacontext.memory.parents import Parents
from megacontext.memory.parts import Parts
from megacontext.memory.scans import scanned
from megacontext.memory.shards import write_shards
from megacontext.ports.gister import CostlyGister

__all__ = ["GistsAhead"]

_log = logging.getLogger(__name__)


class GistsAhead:
    """Makes shards in order, from ``first`` on. A shard of gists is that of one segment of tokens."""

    def __init__(self, parts: Parts, first: int) -> None:
        self._parts = parts
        self.parents = Parents(parts)  # to be looked at when all is made
        self._read = scanned(parts.arrays)
        self._num_made = self._num_allowed = first
        self._is_making = self._is_over = False
        self._changed = Condition()
        self._thread: Thread | None = None
        self._failure: Exception | None = None

    @property
    def num_made(self) -> int:
        """Shards [0, num_made) are written."""
        with self._changed:
            return self._num_made

    def allow(self, num_shards: int) -> None:
        """The tokens of the first ``num_shards`` segments are written."""
        with self._changed:
            self._num_allowed = max(self._num_allowed, num_shards)
            if self._thread is None and self._num_allowed > self._num_made:
                self._thread = Thread(target=self._work, name="gists", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, num_shards: int) -> None:
        """The tokens of all but the first ``num_shards`` segments were given up, others will take their place."""
        with self._changed:
            self._num_allowed = min(self._num_allowed, num_shards)
            self._changed.wait_for(lambda: not self._is_making)
            self._num_made = min(self._num_made, num_shards)
            self.parents.forget(num_shards)

    def wait(self, seconds: float) -> bool:
        """Wait for what was allowed; whether it is made, or never will be."""
        with self._changed:
            return self._changed.wait_for(self._is_done, seconds)

    def _is_done(self) -> bool:
        return self._num_made >= self._num_allowed or self._is_over

    def _work(self) -> None:
        try:
            if isinstance(self._parts.gister(), CostlyGister):
                return  # what is made here is lost where an ingest fails
            while (shard := self._next()) is not None:
                self._make(shard)
                with self._changed:
                    self._is_making = False
                    self._num_made += 1
                    self._changed.notify_all()
        except MegaContextError as error:
            _log.debug("gists are not made ahead: %s", error)
        except Exception as error:  # noqa: BLE001  raised where it is seen, by __exit__
            self._failure = error
        finally:
            with self._changed:
                self._is_making, self._is_over = False, True
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._num_made < self._num_allowed)
            if self._is_over:
                return None
            self._is_making = True
            return self._num_made

    def _make(self, shard: int) -> None:
        info, gister = self._parts.info, self._parts.gister()
        start, stop = shard * info.segment_tokens, (shard + 1) * info.segment_tokens
        context = max(0, start // gister.window_tokens * gister.window_tokens - gister.context_tokens)
        tokens = np.asarray(self._read(token_spec(info), [(context, stop)])[0], np.uint32)
        gists = gister.from_tokens(tokens, start=context, num_context=start - context)
        rows = [(gist_spec(info, 1), shard, gists.vectors), (meta_spec(info, 1), shard, meta_rows(gists))]
        write_shards(self._parts.arrays, rows)
        self.parents.add(shard, gists)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure
