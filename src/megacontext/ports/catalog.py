"""The catalog: what is in a memory, where it came from, how far it is sealed, and the unsealed rest.

A memory's tokens [0, num_tokens) split at ``sealed_tokens``: below it they are in sealed shards, above it in the
catalog (the tail), in the same transaction as their provenance. Commit = durable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megacontext.ports.gister import GistBatch

__all__ = [
    "ERASED",
    "Catalog",
    "CatalogState",
    "CatalogWriter",
    "Damage",
    "Extent",
    "MemoryInfo",
    "Passage",
    "SearchHit",
    "Segment",
    "Source",
]

ERASED = "erased/"  # what the uris of erased sources begin with


@dataclass(frozen=True, kw_only=True)
class MemoryInfo:
    """What a memory is made of; fixed when it is created."""

    block_tokens: int
    segment_tokens: int
    base_name: str
    base_revision: str
    base_fingerprint: str
    vocab_size: int
    dim: int
    gister_name: str
    gister_version: str
    gist_width: int
    created_at: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class CatalogState:
    """How far things are; read in one transaction. ``sealed_nodes[l]``: nodes of level l >= 1 in sealed shards."""

    num_tokens: int
    sealed_tokens: int
    sealed_nodes: Mapping[int, int]
    indexed_tokens: int
    num_sources: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """One ingested thing; its tokens are contiguous. ``source_id`` is 0 until the catalog gave it one.

    uri: where it came from (``file:///...`` or a name the user gave); version: 1, 2, ... among the sources of one uri.
    kind: text, markdown, html, pdf, code, chat or tokens. raw_digest: the blob of the original bytes ('' for kind
    ``tokens`` until sealed); text_digest: the blob of the extracted UTF-8 text, equal to raw_digest for plain text.
    """

    source_id: int = 0
    uri: str
    version: int
    kind: str
    raw_digest: str
    text_digest: str
    num_bytes: int
    token_start: int
    token_stop: int
    role: str = ""
    author: str = ""
    licence: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: float = 0.0

    def described(self, *, role: str, author: str, licence: str) -> Source:
        """The same, with what is not empty said anew."""
        return replace(self, role=role or self.role, author=author or self.author, licence=licence or self.licence)

    def erased(self) -> Source:
        """What remains when it is forgotten: its place in the history."""
        return Source(
            source_id=self.source_id,
            uri=f"{ERASED}{self.source_id}",
            version=1,
            kind="tokens",
            raw_digest="",
            text_digest="",
            num_bytes=4 * (self.token_stop - self.token_start),
            token_start=self.token_start,
            token_stop=self.token_stop,
            created_at=self.created_at,
        )


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A stretch of one source: a page, a message, a whole file, or about a million tokens of a longer one.

    byte_start, byte_stop: range in the source's extracted UTF-8 text. anchors: int64 [ceil(num_tokens / 32)], byte
    offset in the text (relative to byte_start) of every 32nd token of the extent, so that any span is found in its
    source without tokenizing again.
    """

    source_id: int
    token_start: int
    token_stop: int
    byte_start: int
    byte_stop: int
    title: str = ""
    role: str = ""
    time: float = 0.0
    anchors: npt.NDArray[np.int64]

    def erased(self) -> Extent:
        """What remains when its source is forgotten."""
        return Extent(
            source_id=self.source_id,
            token_start=self.token_start,
            token_stop=self.token_stop,
            byte_start=0,
            byte_stop=0,
            anchors=np.empty(0, dtype=np.int64),
        )


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A sealed stretch of ``segment_tokens`` tokens. digest: sha256 of its uint32 little-endian token bytes.
    raw_digest: blob with the tokens of its ``tokens``-kind extents (they have no other raw source), or ''."""

    segment: int
    digest: str
    raw_digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A stretch of text for the full-text index; passages overlap so that no short fact is cut."""

    token_start: int
    token_stop: int
    text: str


@dataclass(frozen=True, kw_only=True)
class SearchHit:
    """A passage that matches; score: BM25, higher is better."""

    token_start: int
    token_stop: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A place that fails its checks. repairable: from what it can be rebuilt ('' if nothing)."""

    object_name: str
    token_start: int
    token_stop: int
    problem: str
    repairable: str = ""


class CatalogWriter(Protocol):
    """One transaction: everything that is called on it happens, or nothing; one sync at the end."""

    def add_source(self, source: Source) -> int:
        """The new source_id."""
        ...

    def extend_source(self, source_id: int, *, token_stop: int, num_bytes: int) -> None:
        """Grow the newest source and its last extent to ``token_stop``: one of kind ``tokens``, or one that was added
        before its end was known."""
        ...

    def add_extent(self, extent: Extent) -> None: ...

    def append_tail(self, start: int, token_ids: npt.NDArray[np.uint32]) -> None:
        """Unsealed tokens from ``start`` (= num_tokens) on; num_tokens grows with them."""
        ...

    def replace_tail(self, start: int, token_ids: npt.NDArray[np.uint32]) -> None:
        """Rewrite unsealed tokens in place (repair)."""
        ...

    def seal(self, segment: Segment) -> None:
        """Declare the next ``segment_tokens`` tokens sealed, whether they were in the tail or never were (bulk
        ingest writes whole segments past the tail); tail rows below are dropped, num_tokens is at least their end."""
        ...

    def put_gists(self, level: int, start_node: int, gists: GistBatch) -> None:
        """Gists that no sealed shard holds yet."""
        ...

    def seal_gists(self, level: int, stop_node: int) -> None:
        """Declare nodes [0, stop_node) of a level sealed and drop what the catalog held of them."""
        ...

    def add_passages(self, passages: Sequence[Passage]) -> None:
        """Index text; ``indexed_tokens`` becomes the last passage's token_stop."""
        ...

    def drop_index(self) -> None:
        """Empty the full-text index (to rebuild it)."""
        ...

    def set_label(self, source_id: int, key: str, value: str) -> None: ...

    def describe_source(self, source_id: int, *, role: str, author: str, licence: str) -> None:
        """Say anew who speaks in a source, who wrote it and under which licence; what is empty stays as it is."""
        ...

    def reseal(self, segment: Segment) -> None:
        """Replace what is known of a sealed segment whose tokens were rewritten."""
        ...

    def erase_source(self, source_id: int) -> None:
        """Forget everything about a source but its token range: it becomes ``erased/<id>`` of kind ``tokens``, without
        labels; its extents lose titles, roles, times and places in the text."""
        ...


class Catalog(Protocol):
    """Reads see the last commit; ``write`` gives the one transaction at a time that may change things."""

    info: MemoryInfo

    def state(self) -> CatalogState: ...

    def num_erased(self) -> int:
        """Sources that were erased; more than before means that what was read of the tree may hold them."""
        ...

    def write(self) -> AbstractContextManager[CatalogWriter]:
        """MemoryReadOnlyError, StorageFullError, StorageError; rolls back on any exception."""
        ...

    def tail(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.uint32]]:
        """``(sealed_tokens, tokens)`` read in one transaction: the tokens of [max(start, sealed_tokens), stop) that
        are in the tail. CorruptionError if a row fails its checksum."""
        ...

    def gists(self, level: int, start_node: int, stop_node: int) -> list[tuple[int, GistBatch]]:
        """Runs ``(first node, gists)`` that the catalog holds within [start_node, stop_node), ascending."""
        ...

    def sources(self, *, uri: str | None = None) -> list[Source]:
        """All sources in order of token_start, or the versions of one uri."""
        ...

    def newest_source(self, uri: str) -> Source | None:
        """The last version of a uri, at a cost that does not grow with their number; None if there is none."""
        ...

    def extents(self, token_start: int, token_stop: int) -> list[tuple[Source, Extent]]:
        """The extents that overlap a token range, in order."""
        ...

    def segments(self) -> list[Segment]: ...

    def search(self, text: str, *, limit: int) -> list[SearchHit]:
        """Passages that share words with ``text``, best first; any text is a valid query."""
        ...

    def check(self) -> Iterator[Damage]:
        """Verify every row's checksum, the database's structure and the index's integrity."""
        ...

    def rebuild(self) -> None:
        """Replace a damaged catalog by its second copy (the journal): sources, labels, extents, segments and tail come
        back as of the last commit; the word index is left empty, and waiting gists that are not known to be intact
        are gone, to be made again from tokens. If only the second copy is damaged, that is written anew and nothing
        else changes. Only the one writer may call it. CorruptionError if both are damaged, or if the second copy lacks
        commits that the catalog does not have whole; nothing is changed then."""
        ...

    def compact(self) -> None:
        """Rewrite the files at rest, so that nothing of what was deleted remains in them."""
        ...

    def num_bytes(self) -> int: ...

    def close(self) -> None: ...
