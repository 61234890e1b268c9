"""Making damaged gists again from what they summarise, and no others, since each has to be computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from megacontext.errors import CorruptionError
from megacontext.memory.check import Finding
from megacontext.memory.gist_rows import meta_rows
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.sealing import GistKeeper
from megacontext.ports.gister import CostlyGister
from megacontext.tree.runs import runs_of

__all__ = ["GistMender"]


class GistMender:
    """Writes shards and rows of gists again; tokens are whole by then."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader
        self._tree = parts.tree

    def write_shard(self, level: int, shard: int) -> None:
        """A sealed shard again."""
        size = shard_nodes(self._parts.info)
        fresh = self._reader.compute(level, shard * size, (shard + 1) * size)
        self._parts.arrays.write_shard(gist_spec(self._parts.info, level), shard, fresh.vectors)
        self._parts.arrays.write_shard(meta_spec(self._parts.info, level), shard, meta_rows(fresh))

    def mend_rows(self, compared: Sequence[Finding]) -> None:
        """Of gists that wait in the catalog, those that fail their checksum and those that a check found to be others;
        and wherever they are, those that were made of the latter."""
        size, others = shard_nodes(self._parts.info), set[int]()
        for level in range(1, self._tree.num_levels(self._reader.num_tokens)):
            width = self._tree.width(level)
            start = self._reader.state.sealed_nodes.get(level, 0)
            stop = self._tree.num_nodes(level, self._reader.num_tokens)
            others = {node // self._tree.block_tokens for node in others}
            for shard in sorted({node // size for node in others if node < start}):
                self.write_shard(level, shard)
            for damage in (finding.damage for finding in compared if finding.level == level):
                others.update(range(damage.token_start // width, damage.token_stop // width))
            for begin in range(start, stop, size):
                end = min(begin + size, stop)
                nodes = others.intersection(range(begin, end)).union(self._failing(level, begin, end))
                for first, last in runs_of(np.asarray(sorted(nodes), np.int64)):
                    self._put(level, first, last)

    def _failing(self, level: int, start: int, stop: int) -> Iterator[int]:
        """Nodes of [start, stop) whose rows are there and damaged."""
        try:
            self._parts.catalog.gists(level, start, stop)
        except CorruptionError:
            middle = (start + stop) // 2
            if start == middle:
                yield start
            else:
                yield from self._failing(level, start, middle)
                yield from self._failing(level, middle, stop)

    def _put(self, level: int, start: int, stop: int) -> None:
        """Compute rows of gists; where they have a price, no more of them than is paid at once."""
        gister = self._reader.gister
        step = gister.nodes_at_once if isinstance(gister, CostlyGister) else shard_nodes(self._parts.info)
        for first in range(start, stop, step):
            fresh = self._reader.compute(level, first, min(first + step, stop))
            with self._parts.catalog.write() as writer:
                writer.put_gists(level, first, fresh)

    def keep_missing(self) -> None:
        """Those that are missing now; where they have a price, whoever asks for them next pays."""
        if not isinstance(self._reader.gister, CostlyGister):
            GistKeeper(self._parts, self._reader).keep_all()
