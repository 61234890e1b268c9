"""How far an ingest is: what has come in, what was passed over, how much is still to come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self

from megacontext.documents.decoding import without_surrogates
from megacontext.documents.discovery import discover
from megacontext.errors import MegaContextError, SourceError
from megacontext.memory.reports import IngestFailure, IngestProgress, IngestReport

__all__ = ["IngestTally", "ProgressCall"]

ProgressCall = Callable[[IngestProgress], None]


class IngestTally:
    """The report while it is being made, and whoever watches it.

    telling: entered while the watcher is called; paths: where to look for how much there is, beside the ingest and only
    if somebody watches; num_bytes: how much there is where that is known.
    """

    def __init__(
        self,
        watch: ProgressCall | None,
        *,
        telling: Callable[[], AbstractContextManager[None]] = nullcontext,
        paths: Sequence[str] = (),
        num_bytes: int = 0,
    ) -> None:
        self.started = time.perf_counter()
        self.num_sources = self.num_tokens = self.num_gist_tokens = self.num_unchanged = self.num_binary = 0
        self.num_bytes = 0
        self.failures: list[IngestFailure] = []
        self.relabelled: list[tuple[int, str, str]] = []
        self.described: list[tuple[int, Mapping[str, str]]] = []  # role, author, licence of sources that were there
        self.uri = ""  # of the newest source
        self.watch_error: BaseException | None = None  # that the watcher raised: nothing is to be done about it
        self._watch = watch
        self._telling = telling
        self._found_bytes = num_bytes
        self._is_found = not paths
        self._stopped = Event()
        self._finder = Thread(target=self._find, args=(paths,), name="find", daemon=True) if paths and watch else None

    def show(self) -> None:
        """Tell how far it is."""
        if self._watch is None:
            return
        progress = IngestProgress(
            uri=self.uri,
            num_tokens=self.num_tokens,
            num_gist_tokens=self.num_gist_tokens,
            num_bytes=self.num_bytes,
            found_bytes=max(self._found_bytes, self.num_bytes),
            is_found=self._is_found,
        )
        try:
            with self._telling():
                self._watch(progress)
        except BaseException as error:
            self.watch_error = error
            raise

    def fail(self, uri: str, error: SourceError) -> None:
        """A source was left out."""
        self.failures.append(IngestFailure(uri=uri, reason=without_surrogates(str(error))))

    def report(self, deferred: str) -> IngestReport:
        return IngestReport(
            num_sources=self.num_sources,
            num_tokens=self.num_tokens,
            seconds=time.perf_counter() - self.started,
            num_unchanged=self.num_unchanged,
            num_binary=self.num_binary,
            failures=tuple(self.failures),
            deferred=deferred,
        )

    def _find(self, paths: Sequence[str]) -> None:
        with suppress(MegaContextError):  # the ingest itself meets it and says so
            for found in discover(paths):
                if self._stopped.is_set():
                    return
                with suppress(OSError):
                    self._found_bytes += found.path.stat().st_size
            self._is_found = True

    def __enter__(self) -> Self:
        if self._finder is not None:
            self._finder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._finder is not None:
            self._finder.join()
