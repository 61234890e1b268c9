"""Gists of level 2, made as soon as their children are there.

They are a thirty-second of the work below them, which nobody wants to wait for when a long file has been read. A shard
of level 1 has ``shard_nodes / K`` parents, and K such pieces are a shard, which is written past the catalog as those of
level 1 are. What belongs to one that is not whole is held, fewer than K pieces at each end of what was made, until it
can be rows of the catalog. Higher levels are a thousandth of the work and stay with whoever keeps the rest.
"""

from __future__ import annotations

from megacontext.memory.gist_rows import join, meta_rows
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes
from megacontext.memory.parts import Parts
from megacontext.memory.shards import write_shards
from megacontext.ports.gister import GistBatch

__all__ = ["Parents"]

_LEVEL = 2


class Parents:
    """written: shards of level 2 that nobody has declared yet."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pieces: dict[int, GistBatch] = {}  # by the shard of their children
        self.written: set[int] = set()

    def add(self, shard: int, children: GistBatch) -> None:
        """A shard of level 1 was made."""
        self._pieces[shard] = self._parts.gister().from_gists(children, level=_LEVEL)
        num_pieces = self._parts.info.block_tokens
        number = shard // num_pieces
        siblings = range(number * num_pieces, (number + 1) * num_pieces)
        if not all(sibling in self._pieces for sibling in siblings):
            return
        whole = join([self._pieces.pop(sibling) for sibling in siblings])
        specs = gist_spec(self._parts.info, _LEVEL), meta_spec(self._parts.info, _LEVEL)
        write_shards(self._parts.arrays, [(specs[0], number, whole.vectors), (specs[1], number, meta_rows(whole))])
        self.written.add(number)

    def forget(self, num_shards: int) -> None:
        """All but the first ``num_shards`` shards of level 1 were given up."""
        self._pieces = {shard: piece for shard, piece in self._pieces.items() if shard < num_shards}
        self.written = {number for number in self.written if (number + 1) * self._parts.info.block_tokens <= num_shards}

    def rows(self) -> list[tuple[int, GistBatch]]:
        """What is in no shard, with the first node of each piece."""
        nodes_of_piece = shard_nodes(self._parts.info) // self._parts.info.block_tokens
        return [(shard * nodes_of_piece, piece) for shard, piece in sorted(self._pieces.items())]
