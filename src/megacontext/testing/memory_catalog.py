"""A catalog in plain lists and dictionaries: what the real one must agree with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from megacontext.catalog.words import words_of
from megacontext.errors import InvariantError, MemoryClosedError, MemoryReadOnlyError, StorageFullError
from megacontext.memory.gist_rows import join
from megacontext.ports.catalog import (
    ERASED,
    CatalogState,
    Damage,
    Extent,
    MemoryInfo,
    Passage,
    SearchHit,
    Segment,
    Source,
)
from megacontext.ports.gister import GistBatch

__all__ = ["MemoryCatalog", "MemoryCatalogWriter"]


def _no_tokens() -> npt.NDArray[np.uint32]:
    return np.empty(0, dtype=np.uint32)


@dataclass
class _Contents:
    """Everything a catalog holds. Arrays in it are replaced, never changed, so a shallow copy is a snapshot."""

    sources: list[Source] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    gists: dict[tuple[int, int], GistBatch] = field(default_factory=dict)
    sealed_nodes: dict[int, int] = field(default_factory=dict)
    sealed_tokens: int = 0
    tail: npt.NDArray[np.uint32] = field(default_factory=_no_tokens)

    @property
    def num_tokens(self) -> int:
        return self.sealed_tokens + len(self.tail)

    def copy(self) -> _Contents:
        return replace(
            self,
            sources=list(self.sources),
            extents=list(self.extents),
            segments=list(self.segments),
            passages=list(self.passages),
            gists=dict(self.gists),
            sealed_nodes=dict(self.sealed_nodes),
        )


class MemoryCatalogWriter:
    """CatalogWriter double: changes a copy that the catalog takes over when the transaction ends well."""

    def __init__(self, contents: _Contents, info: MemoryInfo) -> None:
        self._contents = contents
        self._info = info

    def add_source(self, source: Source) -> int:
        source_id = len(self._contents.sources) + 1
        if any((old.uri, old.version) == (source.uri, source.version) for old in self._contents.sources):
            raise InvariantError(f"version {source.version} of {source.uri} is there already")
        self._contents.sources.append(replace(source, source_id=source_id, labels=dict(source.labels)))
        return source_id

    def extend_source(self, source_id: int, *, token_stop: int, num_bytes: int) -> None:
        if source_id != len(self._contents.sources):
            raise InvariantError(f"source {source_id} cannot grow: {len(self._contents.sources)} is the newest")
        source, extent = self._contents.sources[-1], self._contents.extents[-1]
        if extent.source_id != source_id or token_stop < source.token_stop:
            raise InvariantError(f"source {source_id} cannot become [{source.token_start}, {token_stop})")
        byte_stop = extent.byte_stop + num_bytes - source.num_bytes
        self._contents.sources[-1] = replace(source, token_stop=token_stop, num_bytes=num_bytes)
        self._contents.extents[-1] = replace(extent, token_stop=token_stop, byte_stop=byte_stop)

    def add_extent(self, extent: Extent) -> None:
        if not 1 <= extent.source_id <= len(self._contents.sources):
            raise InvariantError(f"there is no source {extent.source_id}")
        self._contents.extents.append(replace(extent, anchors=extent.anchors.copy()))

    def append_tail(self, start: int, token_ids: npt.NDArray[np.uint32]) -> None:
        if start != self._contents.num_tokens:
            raise InvariantError(f"append at {start}, but the history ends at {self._contents.num_tokens}")
        self._contents.tail = np.concatenate([self._contents.tail, token_ids])

    def replace_tail(self, start: int, token_ids: npt.NDArray[np.uint32]) -> None:
        first, stop = start - self._contents.sealed_tokens, start + len(token_ids)
        if first < 0 or stop > self._contents.num_tokens:
            raise InvariantError(f"[{start}, {stop}) is not within the tail")
        tail = self._contents.tail.copy()
        tail[first : first + len(token_ids)] = token_ids
        self._contents.tail = tail

    def seal(self, segment: Segment) -> None:
        if segment.segment != len(self._contents.segments):
            raise InvariantError(f"segment {segment.segment} is not next: {len(self._contents.segments)} are sealed")
        self._contents.segments.append(segment)
        self._contents.sealed_tokens += self._info.segment_tokens
        self._contents.tail = self._contents.tail[self._info.segment_tokens :]

    def put_gists(self, level: int, start_node: int, gists: GistBatch) -> None:
        shape = (len(gists), self._info.gist_width, self._info.dim)
        if gists.vectors.shape != shape:
            raise InvariantError(f"gists of level {level} have shape {gists.vectors.shape}, not {shape}")
        for index in range(len(gists)):
            one = gists[index : index + 1]
            self._contents.gists[level, start_node + index] = GistBatch(
                vectors=one.vectors.copy(), offsets=one.offsets.copy(), weights=one.weights.copy()
            )

    def seal_gists(self, level: int, stop_node: int) -> None:
        if stop_node < self._contents.sealed_nodes.get(level, 0):
            raise InvariantError(f"level {level} cannot be unsealed to node {stop_node}")
        self._contents.sealed_nodes[level] = stop_node
        for key in [(held, node) for held, node in self._contents.gists if held == level and node < stop_node]:
            del self._contents.gists[key]

    def add_passages(self, passages: Sequence[Passage]) -> None:
        self._contents.passages.extend(passages)

    def drop_index(self) -> None:
        self._contents.passages.clear()

    def set_label(self, source_id: int, key: str, value: str) -> None:
        if not 1 <= source_id <= len(self._contents.sources):
            raise InvariantError(f"there is no source {source_id}")
        source = self._contents.sources[source_id - 1]
        self._contents.sources[source_id - 1] = replace(source, labels={**source.labels, key: value})

    def describe_source(self, source_id: int, *, role: str, author: str, licence: str) -> None:
        if not 1 <= source_id <= len(self._contents.sources):
            raise InvariantError(f"there is no source {source_id}")
        source = self._contents.sources[source_id - 1]
        self._contents.sources[source_id - 1] = source.described(role=role, author=author, licence=licence)

    def reseal(self, segment: Segment) -> None:
        if segment.segment >= len(self._contents.segments):
            raise InvariantError(f"segment {segment.segment} is not sealed")
        self._contents.segments[segment.segment] = segment

    def erase_source(self, source_id: int) -> None:
        if not 1 <= source_id <= len(self._contents.sources):
            raise InvariantError(f"there is no source {source_id}")
        self._contents.sources[source_id - 1] = self._contents.sources[source_id - 1].erased()
        self._contents.extents = [
            extent.erased() if extent.source_id == source_id else extent for extent in self._contents.extents
        ]


class MemoryCatalog:
    """Catalog double. ``is_full`` and ``is_read_only`` may be set at any time: commits and writes then fail as on a
    full disk or read-only media. ``reopened`` gives the catalog that a later process would see."""

    def __init__(self, info: MemoryInfo) -> None:
        self.info = info
        self.is_full = False
        self.is_read_only = False
        self._contents = _Contents()
        self._closed = False
        self._writing = False

    def reopened(self) -> MemoryCatalog:
        later = MemoryCatalog(self.info)
        later._contents = self._contents
        return later

    def state(self) -> CatalogState:
        contents = self._open_contents()
        return CatalogState(
            num_tokens=contents.num_tokens,
            sealed_tokens=contents.sealed_tokens,
            sealed_nodes=dict(contents.sealed_nodes),
            indexed_tokens=contents.passages[-1].token_stop if contents.passages else 0,
            num_sources=len(contents.sources),
        )

    def num_erased(self) -> int:
        return sum(source.uri.startswith(ERASED) for source in self._open_contents().sources)

    @contextmanager
    def write(self) -> Iterator[MemoryCatalogWriter]:
        contents = self._open_contents().copy()
        if self.is_read_only:
            raise MemoryReadOnlyError("the catalog is read-only")
        if self._writing:
            raise InvariantError("a transaction of this catalog is open already; transactions do not nest")
        self._writing = True
        try:
            yield MemoryCatalogWriter(contents, self.info)
            if self.is_full:
                raise StorageFullError("no space left while writing the catalog; nothing was changed")
            self._contents = contents
        finally:
            self._writing = False

    def tail(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.uint32]]:
        contents = self._open_contents()
        sealed = contents.sealed_tokens
        return sealed, contents.tail[max(0, start - sealed) : max(0, stop - sealed)].copy()

    def gists(self, level: int, start_node: int, stop_node: int) -> list[tuple[int, GistBatch]]:
        held = self._open_contents().gists
        nodes = [node for at, node in sorted(held) if at == level and start_node <= node < stop_node]
        runs: list[list[int]] = []
        for node in nodes:
            if runs and runs[-1][-1] + 1 == node:
                runs[-1].append(node)
            else:
                runs.append([node])
        return [(run[0], join([held[level, node] for node in run])) for run in runs]

    def sources(self, *, uri: str | None = None) -> list[Source]:
        return [source for source in self._open_contents().sources if uri is None or source.uri == uri]

    def newest_source(self, uri: str) -> Source | None:
        return max(self.sources(uri=uri), key=lambda source: source.version, default=None)

    def extents(self, token_start: int, token_stop: int) -> list[tuple[Source, Extent]]:
        contents = self._open_contents()
        return [
            (contents.sources[extent.source_id - 1], extent)
            for extent in contents.extents
            if extent.token_start < token_stop and extent.token_stop > token_start
        ]

    def segments(self) -> list[Segment]:
        return list(self._open_contents().segments)

    def search(self, text: str, *, limit: int) -> list[SearchHit]:
        """BM25 over every passage, by the book."""
        passages = self._open_contents().passages
        counts = [Counter(words_of(passage.text)) for passage in passages]
        mean_words = sum(count.total() for count in counts) / max(1, len(counts))
        scores = [0.0] * len(passages)
        for word in set(words_of(text)):
            num_with = sum(word in count for count in counts)
            rarity = max(math.log((len(counts) - num_with + 0.5) / (num_with + 0.5)), 1e-6)
            for index, count in enumerate(counts):
                length = 0.25 + 0.75 * count.total() / mean_words if mean_words else 1.0
                scores[index] += rarity * count[word] * 2.2 / (count[word] + 1.2 * length) if count[word] else 0.0
        hits = [
            SearchHit(token_start=passage.token_start, token_stop=passage.token_stop, score=score)
            for passage, score in zip(passages, scores, strict=True)
            if score > 0
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.token_start))[:limit]

    def check(self) -> Iterator[Damage]:
        self._open_contents()
        yield from ()

    def rebuild(self) -> None:
        contents = self._open_contents().copy()
        contents.passages.clear()
        contents.gists.clear()
        self._contents = contents

    def compact(self) -> None:
        self._open_contents()

    def num_bytes(self) -> int:
        contents = self._open_contents()
        return contents.tail.nbytes + sum(gists.vectors.nbytes for gists in contents.gists.values())

    def close(self) -> None:
        self._closed = True

    def _open_contents(self) -> _Contents:
        if self._closed:
            raise MemoryClosedError("the catalog was closed; open the memory again")
        return self._contents
