"""What ingests that were killed, or failed, left behind: files that no commit refers to.

A shard is written before the transaction that declares it, and a blob before its source is there, so that whoever dies
in between leaves some, of a long file thousands. The catalog alone says what is in use: the first shards of each array
and the blobs that it names. No reader looks further, and what is in use never becomes less. So the one writer may
delete the rest, as long as it writes nothing itself.
"""

from __future__ import annotations

import logging

from megacontext.errors import MegaContextError
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes, shards_in_use, token_spec
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.shards import WRITE_AHEAD
from megacontext.ports.arrays import Orphan
from megacontext.ports.catalog import Catalog
from megacontext.units import format_bytes

__all__ = ["Orphans", "named_digests"]

_log = logging.getLogger(__name__)


class Orphans:
    """Finds and removes them, in a memory whose catalog is whole."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader

    def found(self) -> list[Orphan]:
        """All that there are; none if somebody commits meanwhile. What is written just now is among them."""
        self._reader.refresh()
        state = self._reader.state
        orphans = self._parts.arrays.orphans(shards_in_use(self._parts.info, state))
        if (named := self._named_digests()) is not None:
            orphans += self._parts.blobs.orphans(named)
        self._reader.refresh()
        return orphans if self._reader.state == state else []

    def remove(self) -> list[Orphan]:
        """Delete all; what they were. The caller holds the writer's lock."""
        removed = self._removed(keep_blobs=False)
        if removed:
            with self._parts.catalog.write():  # an empty commit: closing then folds the log that grew beside them
                pass
        return removed

    def clear_way(self) -> None:
        """Before the first change: delete shards where the next ones go, and with them whatever else lies there.

        Costs a look at a few places if there are none. Blobs stay, since to know them takes all names of the catalog.
        Shards are written in order, ``WRITE_AHEAD`` at once: if none of so many is there, none behind them is. Those of
        gists may lie where no tokens do: they are declared later.
        """
        info, arrays, state = self._parts.info, self._parts.arrays, self._reader.state
        next_shards = [(token_spec(info), state.sealed_tokens // info.segment_tokens)]
        next_shards += [
            (spec(info, 1), state.sealed_nodes.get(1, 0) // shard_nodes(info)) for spec in (gist_spec, meta_spec)
        ]
        try:
            if any(
                arrays.has_shard(spec, shard)
                for spec, first in next_shards
                for shard in range(first, first + WRITE_AHEAD)
            ):
                removed = self._removed(keep_blobs=True)
                _log.info("removed %s of an interrupted ingest", format_bytes(sum(one.num_bytes for one in removed)))
        except MegaContextError as error:  # they are in nobody's way
            _log.warning("what an interrupted ingest left cannot be removed: %s", error)

    def _removed(self, *, keep_blobs: bool) -> list[Orphan]:
        self._reader.refresh()
        orphans = self._parts.arrays.remove_orphans(shards_in_use(self._parts.info, self._reader.state))
        named = self._named_digests()
        if named is None:
            return orphans
        return orphans + self._parts.blobs.remove_orphans(None if keep_blobs else named)

    def _named_digests(self) -> set[str] | None:
        """What this generation of the memory and the others name; None while another process writes one of those."""
        others = self._parts.siblings.named_digests()
        return None if others is None else others | named_digests(self._parts.catalog)


def named_digests(catalog: Catalog) -> set[str]:
    """Every blob that a catalog names, and ''."""
    digests = {digest for source in catalog.sources() for digest in (source.raw_digest, source.text_digest)}
    return digests | {segment.raw_digest for segment in catalog.segments()}
