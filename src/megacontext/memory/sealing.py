"""Keeps the gists of complete nodes: whole shards as arrays, the rest as rows of the catalog.

Gists are derived: whatever is missing can be computed again, so this runs after a commit, never inside it. A shard
is written and synced before the transaction that declares it, as for tokens. Work is paid in proportion: an append
that completes a segment pays for at most ``CATCH_UP_SHARDS`` shards, even if an interrupted ingest left many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from megacontext.memory.gist_rows import meta_rows
from megacontext.memory.gists_ahead import GistsAhead
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes
from megacontext.memory.parents import Parents
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.shards import WRITE_AHEAD, ShardRows, write_shards
from megacontext.ports.gister import CostlyGister, GistBatch

__all__ = ["CATCH_UP_SHARDS", "GistKeeper"]

CATCH_UP_SHARDS = 2
_COMMIT_SHARDS = 16  # shards between two transactions, so that a long run keeps what it has done


class GistKeeper:
    """Computes and keeps the gists that nobody holds yet."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader
        self._tree = parts.tree

    def is_due(self) -> bool:
        """Whether a whole shard of level-1 gists is there to be written."""
        return self._num_unsealed(1, self._reader.num_tokens) >= shard_nodes(self._parts.info)

    def is_missing_costly(self) -> bool:
        """Whether gists that have a price are missing: whoever reads would pay for them, and throw them away."""
        first, stop = self._reader.state.sealed_nodes.get(1, 0), self._tree.num_nodes(1, self._reader.num_tokens)
        num_held = sum(len(batch) for _, batch in self._parts.catalog.gists(1, first, stop))
        return num_held < stop - first and self._nodes_at_once > 0

    def catch_up(self) -> None:
        """What an append owes: a few shards of level 1, and what stands above them; nothing where that has a price."""
        if self._nodes_at_once:
            return
        self._seal(1, self._reader.num_tokens, max_shards=CATCH_UP_SHARDS)
        self._keep_above(self._reader.state.sealed_nodes.get(1, 0) * self._tree.block_tokens)

    def ahead(self) -> GistsAhead:
        """Makes the shards of level 1 that come next."""
        return GistsAhead(self._parts, self.num_shards)

    @property
    def num_shards(self) -> int:
        """Shards of level 1 that are declared."""
        return self._reader.state.sealed_nodes.get(1, 0) // shard_nodes(self._parts.info)

    def declare(self, num_shards: int) -> None:
        """Shards of level 1 that were made ahead are part of the memory, as far as their tokens are."""
        num_shards = min(num_shards, self._reader.state.sealed_tokens // self._parts.info.segment_tokens)
        if num_shards > self.num_shards:
            self._declare(1, num_shards)

    def keep_all(self, kept: Callable[[int], None] | None = None, parents: Parents | None = None) -> None:
        """Every complete node's gist in a shard or a row. kept: told how many tokens' gists of level 1 are kept;
        parents: what was made of level 2 already."""
        self._seal(1, self._reader.num_tokens, kept=kept)
        self._put_rows(1, self._reader.num_tokens)
        if parents is not None:
            self._take(parents)
        self._keep_above(self._reader.num_tokens)

    def _take(self, parents: Parents) -> None:
        """Rows first: they may complete the shard that comes before those that were written."""
        if rows := parents.rows():
            with self._parts.catalog.write() as writer:
                for first, batch in rows:
                    writer.put_gists(2, first, batch)
        tokens_of_shard = shard_nodes(self._parts.info) * self._tree.block_tokens**2
        for shard in sorted(parents.written):
            self._seal(2, shard * tokens_of_shard)
            self._declare(2, shard + 1)

    def _keep_above(self, num_tokens: int) -> None:
        """Levels >= 2 of the first ``num_tokens`` tokens, whose level 1 is kept."""
        for level in range(2, self._tree.num_levels(num_tokens)):
            self._seal(level, num_tokens)
            self._put_rows(level, num_tokens)

    def _num_unsealed(self, level: int, num_tokens: int) -> int:
        return self._tree.num_nodes(level, num_tokens) - self._reader.state.sealed_nodes.get(level, 0)

    def _seal(
        self,
        level: int,
        num_tokens: int,
        *,
        max_shards: int | None = None,
        kept: Callable[[int], None] | None = None,
    ) -> None:
        """Write the level's whole shards and declare them."""
        if self._nodes_at_once:
            self._put_rows(level, num_tokens)
        size = shard_nodes(self._parts.info)
        first = self._reader.state.sealed_nodes.get(level, 0) // size
        last = first + self._num_unsealed(level, num_tokens) // size
        if max_shards is not None:
            last = min(last, first + max_shards)
        for begin in range(first, last, _COMMIT_SHARDS):
            end = min(begin + _COMMIT_SHARDS, last)
            for ahead in range(begin, end, WRITE_AHEAD):
                shards = range(ahead, min(ahead + WRITE_AHEAD, end))
                batches = [(shard, self._reader.gists(level, shard * size, (shard + 1) * size)) for shard in shards]
                write_shards(self._parts.arrays, self._rows_of(level, batches))
                if kept is not None:
                    kept(shards.stop * self._parts.info.segment_tokens)
            self._declare(level, end)

    def _declare(self, level: int, num_shards: int) -> None:
        with self._parts.catalog.write() as writer:
            writer.seal_gists(level, num_shards * shard_nodes(self._parts.info))
        self._reader.refresh()

    def _rows_of(self, level: int, batches: list[tuple[int, GistBatch]]) -> Iterator[ShardRows]:
        for shard, batch in batches:
            yield gist_spec(self._parts.info, level), shard, batch.vectors
            yield meta_spec(self._parts.info, level), shard, meta_rows(batch)

    def _put_rows(self, level: int, num_tokens: int) -> None:
        """Give the catalog the rows of a level that nobody holds: less than a shard, or it would have been sealed."""
        position = self._reader.state.sealed_nodes.get(level, 0)
        stop = self._tree.num_nodes(level, num_tokens)
        missing = []
        for node, batch in self._parts.catalog.gists(level, position, stop):
            missing.append((position, node))
            position = node + len(batch)
        missing.append((position, stop))
        if step := self._nodes_at_once:
            pieces = [(at, min(at + step, last)) for first, last in missing for at in range(first, last, step)]
            for piece in pieces:
                self._keep_rows(level, [piece])
            return
        self._keep_rows(level, [(first, last) for first, last in missing if first < last])

    @property
    def _nodes_at_once(self) -> int:
        """Nodes between two commits where gists have a price; 0 where they have none."""
        gister = self._parts.gister()
        return gister.nodes_at_once if isinstance(gister, CostlyGister) else 0

    def _keep_rows(self, level: int, runs: list[tuple[int, int]]) -> None:
        """Compute runs of nodes, and commit them at once."""
        rows = [(first, self._reader.compute(level, first, last)) for first, last in runs]
        if rows:
            with self._parts.catalog.write() as writer:
                for first, batch in rows:
                    writer.put_gists(level, first, batch)
