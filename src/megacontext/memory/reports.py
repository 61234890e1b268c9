"""What a memory tells its user: reports of ingests and checks, quotations, search results, statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megacontext.ports.catalog import Damage, MemoryInfo

__all__ = [
    "CheckReport",
    "IngestFailure",
    "IngestProgress",
    "IngestReport",
    "MemoryStats",
    "Quotation",
    "SearchResult",
]


@dataclass(frozen=True, kw_only=True)
class IngestFailure:
    """One file of a folder that was left out, and why."""

    uri: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestProgress:
    """How far an ingest is.

    uri: the newest source; num_tokens: added so far, num_gist_tokens: of how many of them the gists are kept, too.
    num_bytes: of files that are done with, added or not; found_bytes: of all that are known of; is_found: whether
    these are all, or folders are still being looked through.
    """

    uri: str
    num_tokens: int
    num_gist_tokens: int
    num_bytes: int
    found_bytes: int
    is_found: bool


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest did.

    num_sources, num_tokens: added; num_unchanged: sources already there as they are; num_binary: files that are no
    text; failures: files of a folder that could not be ingested; deferred: why sealing could not finish although
    every source is safely stored ('' as a rule; the next change tries again).
    """

    num_sources: int
    num_tokens: int
    seconds: float
    num_unchanged: int = 0
    num_binary: int = 0
    failures: tuple[IngestFailure, ...] = ()
    deferred: str = ""

    @property
    def num_skipped(self) -> int:
        """Files that were found and not added: unchanged, binary or failed."""
        return self.num_unchanged + self.num_binary + len(self.failures)


@dataclass(frozen=True, kw_only=True)
class Quotation:
    """A stretch of one source, exactly as it stands there.

    byte_start, byte_stop: range in the source's extracted UTF-8 text, 0 for sources of kind ``tokens``, which have no
    text of their own; line_start, line_stop: first and last line (1-based) of the file, 0 where the text was extracted
    from another format (HTML, PDF, chat logs) and lines of it are no lines of the file. exact: False if the tokenizer
    does not let the range be cut at the token, so that the quotation is a little wider than the tokens.
    """

    source_id: int
    uri: str
    version: int
    kind: str
    title: str
    role: str
    author: str
    licence: str
    labels: Mapping[str, str]
    time: float
    token_start: int
    token_stop: int
    byte_start: int
    byte_stop: int
    line_start: int
    line_stop: int
    text: str
    exact: bool = True


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A passage that matches, or what one of the sources that share it has of it. Results share no tokens: of two
    passages that overlap, the lower one is the rest. What is no longer than a passage, such as a note, a message or a
    short page, is whole.

    score: BM25-like, higher is better; of the whole passage.
    """

    token_start: int
    token_stop: int
    score: float
    uri: str
    version: int
    title: str
    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found: damages that are there now, and those that a repair made good.

    unused_bytes: of files that nothing in the memory refers to, as an interrupted ingest leaves them and one that goes
    on writes them; no damage. removed_bytes: of such that a repair deleted. Both are 0 where the catalog is damaged,
    which would have to say what is in use.
    """

    damages: tuple[Damage, ...]
    repaired: tuple[Damage, ...]
    num_objects: int
    num_tokens: int
    seconds: float
    unused_bytes: int = 0
    removed_bytes: int = 0

    @property
    def ok(self) -> bool:
        return not self.damages


@dataclass(frozen=True, kw_only=True)
class MemoryStats:
    """A memory in numbers. num_nodes[l]: complete nodes of level l, tokens first; older_bytes, coming_bytes: of
    catalogs and arrays of before the memory was moved, and of one that a move is making; not in ``num_bytes``. health:
    what is not as it should be, a line each, as far as it shows without reading everything; ``check`` does.
    """

    info: MemoryInfo
    num_tokens: int
    num_sources: int
    num_levels: int
    num_nodes: tuple[int, ...]
    sealed_tokens: int
    indexed_tokens: int
    array_bytes: int
    blob_bytes: int
    catalog_bytes: int
    older_bytes: int = 0
    coming_bytes: int = 0
    health: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        return self.array_bytes + self.blob_bytes + self.catalog_bytes
