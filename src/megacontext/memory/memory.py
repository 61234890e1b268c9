"""``Memory``: one persistent MegaContext, seen from outside; every power it has lives in a module beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError, MemoryClosedError
from megacontext.memory.care import Caretaker
from megacontext.memory.drafting import IngestRequest
from megacontext.memory.erase import Eraser, EraseReport
from megacontext.memory.ingest import Ingestor
from megacontext.memory.intake import given_paths
from megacontext.memory.layout import REWRITE_LOCK_FILE
from megacontext.memory.lock import RewriteLock, WriterLock
from megacontext.memory.parts import LazyGister, Parts
from megacontext.memory.passages import indexed_stop
from megacontext.memory.provenance import Quoter
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import CheckReport, IngestProgress, IngestReport, MemoryStats, Quotation, SearchResult
from megacontext.memory.sealing import GistKeeper
from megacontext.memory.search import Searcher
from megacontext.memory.siblings import NoSiblings, Siblings
from megacontext.memory.writing import Writer
from megacontext.ports.arrays import ArrayStore, BlobStore
from megacontext.ports.catalog import Catalog, CatalogState, MemoryInfo, SearchHit, Source
from megacontext.ports.gister import Gister
from megacontext.ports.text import TextCodec
from megacontext.tree.geometry import TreeGeometry
from megacontext.values import flag, shown, whole_number

__all__ = ["Memory"]


class Memory:
    """A history of any length: append-only, on disk, readable at every level of detail.

    Reading never locks. The first change takes the writer's lock, which is held until ``close`` or the end of the
    process. One object is for one thread; open the memory again for another.

    Args:
        catalog, arrays, blobs: where things are kept.
        codec: text to token ids and back.
        gister: makes the gister when it is first needed, so that opening a memory loads no model.
        lock_path: the writer's lock file; None where no other process can reach the memory.
        read_only: refuse every change.
        siblings: what else was derived from the same raw sources, for another base.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        arrays: ArrayStore,
        blobs: BlobStore,
        codec: TextCodec,
        gister: Callable[[], Gister],
        lock_path: Path | None = None,
        read_only: bool = False,
        siblings: Siblings | None = None,
    ) -> None:
        self._parts = Parts(
            catalog=catalog,
            arrays=arrays,
            blobs=blobs,
            codec=codec,
            gister=LazyGister(gister, catalog.info),
            siblings=siblings or NoSiblings(),
        )
        self._reader = TreeReader(self._parts)
        self._lock = WriterLock(lock_path)
        self._rewrite_lock = RewriteLock(None if lock_path is None else lock_path.with_name(REWRITE_LOCK_FILE))
        self._writer = Writer(self._parts, self._reader, self._lock, read_only=read_only)
        self._keeper = GistKeeper(self._parts, self._reader)
        self._ingestor = Ingestor(self._parts, self._reader, self._writer, self._keeper)
        self._searcher = Searcher(self._parts, self._reader)
        self._quoter = Quoter(self._parts, self._reader)
        self._caretaker = Caretaker(self._parts, self._reader, self._writer, self._rewrite_lock)
        self._closed = False

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def info(self) -> MemoryInfo:
        """What the memory is made of; fixed when it was created."""
        return self._parts.info

    @property
    def tree(self) -> TreeGeometry:
        return self._parts.tree

    @property
    def codec(self) -> TextCodec:
        return self._parts.codec

    @property
    def num_tokens(self) -> int:
        """Tokens of the history, as of the last change by this object or the last ``refresh``."""
        return self._reader.num_tokens

    @property
    def num_levels(self) -> int:
        """Levels that hold at least one complete node, tokens included."""
        return self._reader.num_levels

    @property
    def reader(self) -> TreeReader:
        """Batched reads for sessions: ``token_batch`` and ``gist_batch``."""
        return self._open_reader()

    # --- change -------------------------------------------------------------------------------------------------

    def ingest(
        self,
        paths: str | PathLike[str] | Iterable[str | PathLike[str]] = (),
        *,
        text: str | IO[bytes] | None = None,
        source: str = "text",
        labels: Mapping[str, str] | None = None,
        role: str = "",
        author: str = "",
        licence: str = "",
        progress: Callable[[IngestProgress], None] | None = None,
    ) -> IngestReport:
        """Add files, whole folders (respecting .gitignore), or a ``text`` under the name ``source``: a str, or a file
        that is open, of any length, and read as bytes from its beginning.

        A source that is there unchanged is skipped, a changed one becomes a new version. Every source is added
        whole or not at all, and durable on return. A file that is named directly and cannot be read is an error; in
        a folder it is left out and reported. ``progress`` is told how far it is, after each group of sources, within a
        long one, and while gists are made; it may read from the memory, and stops the ingest if it raises.

        Raises: InvalidValueError, SourceError, MemoryLockedError, MemoryReadOnlyError, StorageError.
        """
        request = IngestRequest(
            labels={} if labels is None else labels, role=role, author=author, licence=licence, progress=progress
        )
        given = given_paths(paths)
        if text is None:
            return self._ingestor.paths(given, request)
        if given:
            raise InvalidValueError(f"both paths ({shown(given)}) and a text are given; ingest one after the other")
        return self._ingestor.text(text, source, request)

    def append(self, token_ids: npt.ArrayLike, *, source: str = "tokens", role: str = "") -> int:
        """Add tokens, integers [T] from 0 to the size of the vocabulary - 1, of any integer dtype; durable on return.
        The position of the first.

        Tokens that follow others of the same source and role continue that source.

        Raises: InvalidTokensError (nothing was changed), MemoryLockedError, MemoryReadOnlyError, StorageError.
        """
        return self._ingestor.tokens(token_ids, source=source, role=role)

    def append_text(
        self, text: str, *, source: str = "text", role: str = "", labels: Mapping[str, str] | None = None
    ) -> tuple[int, int]:
        """Add a short text, such as a turn of a chat, as a new version of ``source``; durable on return. Its range
        ``[start, stop)``.

        Raises: EmptySourceError, InvalidValueError, MemoryLockedError, MemoryReadOnlyError, StorageError.
        """
        request = IngestRequest(labels={} if labels is None else labels, role=role)
        return self._ingestor.turn(text, source, request)

    # --- read ---------------------------------------------------------------------------------------------------

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Token ids of ``[start, stop)``, uint32 [stop - start].

        Raises: InvalidValueError (no such range), CorruptionError, StorageTimeoutError, MemoryClosedError; so do the
        other reads.
        """
        return self._open_reader().tokens(start, stop)

    def gists(self, level: int, start: int, stop: int) -> npt.NDArray[np.float16]:
        """Gist vectors of nodes ``[start, stop)`` of a level >= 1: float16 [stop - start, r, d]; those that are not
        stored are computed. Raises also BaseModelError, BaseMismatchError."""
        return self._open_reader().gists(level, start, stop).vectors

    def text(self, start: int, stop: int) -> str:
        """The text of a token range, decoded."""
        return self._parts.codec.decode(self._open_reader().tokens(start, stop))

    def sources(self) -> list[Source]:
        """Everything that was ingested or appended, in order of its tokens."""
        self._open_reader()
        return self._parts.catalog.sources()

    def provenance(self, start: int, stop: int, *, whole_tokens: int = 0) -> list[Quotation]:
        """Where a token range came from: one exact quotation per extent that it touches, of no more than the range
        has of it. Extents of ``whole_tokens`` or less are quoted whole. Raises as ``tokens``."""
        self._open_reader()
        whole_tokens = whole_number("whole_tokens", whole_tokens, of="tokens", usual=128)
        return self._quoter.quotations(start, stop, whole_tokens)

    def search(self, text: str, *, limit: int = 10) -> list[SearchResult]:
        """At most ``limit`` passages that share words with ``text``, best first, with their sources and BM25 scores.

        Raises: InvalidValueError, CorruptionError, MemoryClosedError.
        """
        self._open_reader()
        return self._searcher.results(text, limit)

    def search_hits(self, text: str, *, limit: int) -> list[SearchHit]:
        """The same as bare spans and scores, for lenses."""
        self._open_reader()
        return self._searcher.hits(text, limit)

    # --- care ---------------------------------------------------------------------------------------------------

    def inspect(self) -> MemoryStats:
        """The memory in numbers: tokens, nodes per level, bytes, base, gister, and what ails it at first sight."""
        reader = self._open_reader()
        older_bytes, coming_bytes = self._parts.siblings.num_bytes()
        counts = tuple(self.tree.num_nodes(level, self.num_tokens) for level in range(self.num_levels))
        return MemoryStats(
            info=self.info,
            num_tokens=self.num_tokens,
            num_sources=reader.state.num_sources,
            num_levels=self.num_levels,
            num_nodes=counts,
            sealed_tokens=reader.state.sealed_tokens,
            indexed_tokens=reader.state.indexed_tokens,
            array_bytes=self._parts.arrays.num_bytes(),
            blob_bytes=self._parts.blobs.num_bytes(),
            catalog_bytes=self._parts.catalog.num_bytes(),
            older_bytes=older_bytes,
            coming_bytes=coming_bytes,
            health=tuple(_ailments(reader.state, self.info, self._keeper)),
        )

    def check(self, *, repair: bool = False, recompute_gists: bool = False) -> CheckReport:
        """Verify every byte at rest against its checksum, and repair what the raw sources can rebuild if asked.

        recompute_gists: also compare every stored gist with a fresh one (needs the base model, slow).
        Damage is reported, not raised.

        Raises: MemoryLockedError (with ``repair`` if somebody writes; while a source is erased), MemoryReadOnlyError,
            BaseModelError, BaseMismatchError.
        """
        self._open_reader()
        return self._caretaker.check(
            repair=flag("repair", repair), recompute_gists=flag("recompute_gists", recompute_gists)
        )

    @property
    def is_missing_gists(self) -> bool:
        """Whether an interrupted ingest left gists behind, or one that has a price was not made: every reader would
        compute them for itself."""
        self._open_reader()
        return self._keeper.is_due() or self._keeper.is_missing_costly()

    def store_gists(self) -> None:
        """Compute and store what an interrupted ingest left behind; free if there is nothing.

        Raises: MemoryLockedError, MemoryReadOnlyError, StorageError.
        """
        self._writer.begin()
        self._keeper.keep_all()

    def erase(self, source: str) -> EraseReport:
        """Forget every version of a source: its bytes, text, words, name and labels, and what its tokens left in the
        gists. Positions stay; its tokens become line ends. A crash on the way is finished by erasing it again.

        Other processes that have the memory open may keep what they have read until they ``refresh`` or open it again.

        Raises: InvalidValueError if there is no such source, MemoryLockedError, MemoryReadOnlyError, StorageError.
        """
        return Eraser(self._parts, self._open_reader(), self._writer, self._rewrite_lock).erase(source)

    def refresh(self) -> int:
        """See what other processes have committed since; the number of tokens.

        Raises: MemoryMovedError if the memory was moved to another base meanwhile; until it is opened again, reads go
        on giving what was there before.
        """
        reader = self._open_reader()
        self._parts.siblings.require_newest()
        return reader.refresh()

    def close(self) -> None:
        """Release the lock and the files; closing twice is fine."""
        if not self._closed:
            self._writer.close()
            self._closed = True
            self._parts.catalog.close()
            self._parts.siblings.close()

    def _open_reader(self) -> TreeReader:
        if self._closed:
            raise MemoryClosedError("the memory was closed; open it again")
        return self._reader

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ailments(state: CatalogState, info: MemoryInfo, keeper: GistKeeper) -> Iterator[str]:
    """What is not as it should be, as far as the catalog's state tells."""
    if state.indexed_tokens != indexed_stop(state.num_tokens, info.block_tokens):
        yield (
            "the word index is not whole: while a source is erased that is as it should be, else an erasure was "
            "interrupted; erase again, or run check --repair"
        )
    if keeper.is_due():
        yield "gists are missing, as after an ingest that was interrupted: readers compute them until one goes through"
