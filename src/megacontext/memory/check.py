"""Looks at every byte at rest, and says what is damaged: in which file, and which tokens it concerns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from megacontext.errors import CorruptionError, StorageError
from megacontext.memory.gist_rows import meta_rows
from megacontext.memory.layout import gist_spec, meta_spec, sealed_arrays, shard_nodes, token_spec
from megacontext.memory.parts import Parts
from megacontext.memory.passages import indexed_stop
from megacontext.memory.reads import TreeReader
from megacontext.memory.segments import token_digest
from megacontext.memory.source_texts import blob_pieces
from megacontext.ports.arrays import ArraySpec
from megacontext.ports.catalog import Damage, Source
from megacontext.ports.gister import CostlyGister

__all__ = ["Checker", "Finding"]

_GIST_TOLERANCE = 0.02  # of a gist's largest value: another machine may round a model's float16 otherwise


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A damage, and what repair needs to know of it. part: catalog, layout, tokens, gists or blob; level and shard
    of an array; digest of a blob; was_compared: gists of that level, intact but not those that their tokens give."""

    damage: Damage
    part: str
    level: int = 0
    shard: int = 0
    digest: str = ""
    was_compared: bool = False


class Checker:
    """One pass over a memory. ``num_objects`` counts what was looked at.

    recompute_gists: also compare every stored gist with a fresh one.
    """

    def __init__(self, parts: Parts, reader: TreeReader, *, recompute_gists: bool = False) -> None:
        self._recompute_gists = recompute_gists
        self._parts = parts
        self._reader = reader
        self._tree = parts.tree
        self.num_objects = 0

    def findings(self) -> Iterator[Finding]:
        """All damages; the catalog's first, since everything else is looked up in it."""
        catalog_is_damaged = False
        for damage in self._parts.catalog.check():
            catalog_is_damaged = True
            yield Finding(damage=damage, part="catalog")
        for look in (self._layout, self._tokens, self._tail, self._cover, self._blobs, self._index, self._gists):
            try:
                self._reader.refresh()
                yield from look()
            except CorruptionError as error:  # a look-up in the catalog: no news if the catalog has said so itself
                if not catalog_is_damaged:
                    yield _catalog_finding("rows", 0, 0, _short(error), "journal")
            except StorageError as error:  # a file that may not be read, which no repair can make good
                damage = Damage(object_name="files", token_start=0, token_stop=0, problem=str(error), repairable="")
                yield Finding(damage=damage, part="files")

    # --- what describes the arrays ------------------------------------------------------------------------------

    def _layout(self) -> Iterator[Finding]:
        arrays = {array.spec.name: array for array in sealed_arrays(self._parts.info, self._reader.state)}
        self.num_objects += len(arrays) + bool(arrays)
        for found in self._parts.arrays.damaged_layout([array.spec for array in arrays.values()]):
            array = arrays.get(found.array)
            damage = Damage(
                object_name=found.object_name,
                token_start=0,
                token_stop=array.num_tokens if array is not None else self._reader.state.sealed_tokens,
                problem=found.problem,
                repairable="the settings of the memory",
            )
            yield Finding(damage=damage, part="layout")

    # --- tokens -------------------------------------------------------------------------------------------------

    def _tokens(self) -> Iterator[Finding]:
        size = self._parts.info.segment_tokens
        spec = token_spec(self._parts.info)
        digests = {segment.segment: segment.digest for segment in self._parts.catalog.segments()}
        for shard in range(self._reader.state.sealed_tokens // size):
            self.num_objects += 1
            try:
                rows = self._parts.arrays.read_shard(spec, shard)
            except StorageError as error:
                for start, stop in self._bad_chunks(spec, shard):
                    yield self._shard_finding("tokens", spec, shard, start, stop, _short(error))
                continue
            digest = token_digest(rows)
            if digest != digests.get(shard):
                problem = f"sha256 {digest[:12]} is not the {str(digests.get(shard))[:12]} of the catalog"
                yield self._shard_finding("tokens", spec, shard, shard * size, (shard + 1) * size, problem)

    def _bad_chunks(self, spec: ArraySpec, shard: int) -> list[tuple[int, int]]:
        """Row ranges of a damaged shard that cannot be read, or the whole shard if no chunk owns up."""
        first, last = shard * spec.shard_rows, (shard + 1) * spec.shard_rows
        bad: list[tuple[int, int]] = []
        for start in range(first, last, spec.chunk_rows):
            stop = start + spec.chunk_rows
            try:
                self._parts.arrays.read(spec, start, stop)
            except StorageError:
                if bad and bad[-1][1] == start:
                    bad[-1] = (bad[-1][0], stop)
                else:
                    bad.append((start, stop))
        return bad or [(first, last)]

    def _tail(self) -> Iterator[Finding]:
        start, stop = self._reader.state.sealed_tokens, self._reader.num_tokens
        if (self._reader.tokens(start, stop) >= self._parts.info.vocab_size).any():
            yield _catalog_finding("tail", start, stop, "unknown token id", "raw sources")

    # --- provenance and blobs -----------------------------------------------------------------------------------

    def _cover(self) -> Iterator[Finding]:
        """Sources, and the extents of each, must tile the history; a writer may add to both between two look-ups."""
        num_tokens, position = self._reader.num_tokens, 0
        sources = self._parts.catalog.sources()
        for source in sources:
            if source.token_start != position:
                yield _cover_finding("sources", position, source.token_start)
            inner = source.token_start
            for _, extent in self._parts.catalog.extents(source.token_start, source.token_stop):
                if extent.source_id != source.source_id or extent.token_start != inner:
                    yield _cover_finding("extents", inner, extent.token_start)
                inner = extent.token_stop
            if source is sources[-1] and source.token_stop < inner <= self._reader.refresh():
                inner = source.token_stop  # it has grown meanwhile
            if inner != source.token_stop:
                yield _cover_finding("extents", inner, source.token_stop)
            position = source.token_stop
        if not num_tokens <= position <= self._reader.refresh():
            yield _cover_finding("sources", position, num_tokens)

    def _blobs(self) -> Iterator[Finding]:
        seen: set[str] = set()
        for digest, start, stop in self._named_blobs():
            if digest in seen:
                continue
            seen.add(digest)
            self.num_objects += 1
            try:
                for _ in blob_pieces(self._parts, digest):
                    pass
            except StorageError as error:
                damage = Damage(
                    object_name=self._parts.blobs.object_name(digest),
                    token_start=start,
                    token_stop=stop,
                    problem=_short(error),
                    repairable="tokens",
                )
                yield Finding(damage=damage, part="blob", digest=digest)

    def _named_blobs(self) -> Iterator[tuple[str, int, int]]:
        """Every digest that the catalog names, with the tokens that rest on it."""
        for source in self._parts.catalog.sources():
            for digest in _digests(source):
                yield digest, source.token_start, source.token_stop
        size = self._parts.info.segment_tokens
        for segment in self._parts.catalog.segments():
            if segment.raw_digest:
                yield segment.raw_digest, segment.segment * size, (segment.segment + 1) * size

    # --- derived ------------------------------------------------------------------------------------------------

    def _index(self) -> Iterator[Finding]:
        wanted = indexed_stop(self._reader.num_tokens, self._parts.info.block_tokens)
        indexed = self._reader.state.indexed_tokens
        if indexed != wanted:
            problem = f"reaches token {indexed} instead of {wanted}"
            yield _catalog_finding("passages", min(indexed, wanted), max(indexed, wanted), problem, "tokens")

    def _gists(self) -> Iterator[Finding]:
        for level in range(1, self._tree.num_levels(self._reader.num_tokens)):
            yield from self._gists_of(level)

    def _gists_of(self, level: int) -> Iterator[Finding]:
        size = shard_nodes(self._parts.info)
        for shard in range(self._reader.state.sealed_nodes.get(level, 0) // size):
            vectors = meta = None
            for spec in (gist_spec(self._parts.info, level), meta_spec(self._parts.info, level)):
                self.num_objects += 1
                try:
                    rows = self._parts.arrays.read_shard(spec, shard)
                except StorageError as error:
                    for start, stop in self._bad_chunks(spec, shard):
                        yield self._gist_finding(spec, level, shard, start, stop, _short(error))
                    continue
                if not np.isfinite(rows).all():
                    yield self._gist_finding(spec, level, shard, shard * size, (shard + 1) * size, "not finite")
                vectors, meta = (rows, meta) if spec.name.startswith("lod") else (vectors, rows)
            if self._recompute_gists and vectors is not None and meta is not None:
                yield from self._recomputed(level, shard, vectors, meta)
        if self._recompute_gists:
            yield from self._recomputed_rows(level)

    def _recomputed(
        self, level: int, shard: int, vectors: npt.NDArray[np.generic], meta: npt.NDArray[np.generic]
    ) -> Iterator[Finding]:
        if isinstance(self._reader.gister, CostlyGister):
            return  # a model need not write the same summary twice
        size = shard_nodes(self._parts.info)
        fresh = self._reader.compute(level, shard * size, (shard + 1) * size)
        for spec, rows, wanted in (
            (gist_spec(self._parts.info, level), vectors, fresh.vectors),
            (meta_spec(self._parts.info, level), meta, meta_rows(fresh)),
        ):
            if (apart := _apart(rows, wanted)).any():
                first, last = np.flatnonzero(apart)[[0, -1]].tolist()
                start, stop = shard * size + first, shard * size + last + 1
                found = self._gist_finding(spec, level, shard, start, stop, _other_gists(apart))
                yield replace(found, was_compared=True)

    def _recomputed_rows(self, level: int) -> Iterator[Finding]:
        """Of gists that wait in the catalog for a whole shard."""
        if isinstance(self._reader.gister, CostlyGister):
            return
        size, width = shard_nodes(self._parts.info), self._tree.width(level)
        first = self._reader.state.sealed_nodes.get(level, 0)
        last = self._tree.num_nodes(level, self._reader.num_tokens)
        for begin in range(first, last, size):
            try:
                waiting = self._parts.catalog.gists(level, begin, min(begin + size, last))
            except CorruptionError:  # the catalog has said so itself
                continue
            for start, gists in waiting:
                fresh = self._reader.compute(level, start, start + len(gists))
                apart = _apart(gists.vectors, fresh.vectors) | _apart(meta_rows(gists), meta_rows(fresh))
                if apart.any():
                    one, other = (start + np.flatnonzero(apart)[[0, -1]]).tolist()
                    found = _catalog_finding("gists", one * width, (other + 1) * width, _other_gists(apart), "tokens")
                    yield replace(found, level=level, was_compared=True)

    def _gist_finding(self, spec: ArraySpec, level: int, shard: int, start: int, stop: int, problem: str) -> Finding:
        width = self._tree.width(level)
        return self._shard_finding("gists", spec, shard, start * width, stop * width, problem, level=level)

    def _shard_finding(
        self, part: str, spec: ArraySpec, shard: int, start: int, stop: int, problem: str, *, level: int = 0
    ) -> Finding:
        damage = Damage(
            object_name=self._parts.arrays.object_name(spec, shard),
            token_start=start,
            token_stop=stop,
            problem=problem,
            repairable="raw sources" if part == "tokens" else "tokens",
        )
        return Finding(damage=damage, part=part, level=level, shard=shard)


def _apart(rows_N: npt.NDArray[np.generic], wanted_N: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Which gists, or what is told of them, are not the wanted ones."""
    limit = _GIST_TOLERANCE * max(1e-6, float(np.abs(wanted_N).max()))
    apart: npt.NDArray[np.bool_] = (
        np.abs(rows_N.astype(np.float32) - wanted_N.astype(np.float32)).reshape(len(rows_N), -1).max(axis=1) > limit
    )
    return apart


def _other_gists(apart_N: npt.NDArray[np.bool_]) -> str:
    return f"{int(apart_N.sum())} gists are not what their tokens give"


def _digests(source: Source) -> list[str]:
    return [digest for digest in dict.fromkeys((source.raw_digest, source.text_digest)) if digest]


def _cover_finding(table: str, start: int, stop: int) -> Finding:
    problem = "has a gap" if start < stop else "overlaps"
    return _catalog_finding(table, min(start, stop), max(start, stop), problem, "journal")


def _catalog_finding(table: str, start: int, stop: int, problem: str, repairable: str) -> Finding:
    damage = Damage(
        object_name=f"catalog: {table}", token_start=start, token_stop=stop, problem=problem, repairable=repairable
    )
    return Finding(damage=damage, part="catalog")


def _short(error: Exception) -> str:
    return str(error).partition(";")[0]
