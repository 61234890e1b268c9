"""Repair, on explicit command only: what is damaged is made again from what is intact, in the order of dependence.

What describes the arrays first (from the memory's settings), then originals and texts, tokens (from texts), the index
and the gists (from tokens). Nothing is written that its digest does not prove, except gists and index, which are
defined by the tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from megacontext.errors import CorruptionError, MegaContextError
from megacontext.memory.check import Finding
from megacontext.memory.gist_mending import GistMender
from megacontext.memory.layout import sealed_arrays, token_spec
from megacontext.memory.lost_blobs import LostBlobs
from megacontext.memory.parts import Parts
from megacontext.memory.passages import STRIDE_BLOCKS, passages_from
from megacontext.memory.reads import TreeReader
from megacontext.memory.rebuild import Rebuilder
from megacontext.memory.segments import token_digest
from megacontext.memory.source_texts import LONG_BYTES
from megacontext.ports.arrays import SupportsLongBlobs
from megacontext.ports.catalog import Damage

__all__ = ["Repairer"]

_FROM_TOKENS = "tokens"
_log = logging.getLogger(__name__)


class Repairer:
    """Mends findings one by one; what cannot be mended stays for the next check to report."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader
        self._rebuilder = Rebuilder(parts, reader)
        self._lost_blobs = LostBlobs(parts, reader)
        self._gists = GistMender(parts, reader)

    def repair_catalog(self, findings: Sequence[Finding]) -> None:
        """First of all, since everything else is looked up in the catalog; check again before ``repair``."""
        damages = [finding.damage for finding in findings if finding.part == "catalog"]
        if any(damage.repairable != _FROM_TOKENS for damage in damages):
            self._try("catalog", self._parts.catalog.rebuild)
            self._reader.refresh()
            for damage in damages:
                self._try(damage.object_name, self._mend_tail, damage)
        self._reader.forget()

    def repair(self, findings: Sequence[Finding]) -> None:
        """Everything else that can be. The caller holds the writer's lock, and checks again afterwards."""
        menders: dict[str, Callable[[Finding], None]] = {
            "layout": self._mend_layout,
            "blob": self._mend_blob,
            "tokens": self._mend_tokens,
            "gists": self._mend_gists,
        }
        for part, mend in menders.items():
            done: set[tuple[int, int, str]] = set()
            for finding in findings:
                key = (finding.level, finding.shard, finding.digest)
                if finding.part == part and key not in done:
                    self._try(finding.damage.object_name, mend, finding)
                    done.add(key)
        in_catalog = [finding for finding in findings if finding.part == "catalog"]
        of_gists = [finding for finding in in_catalog if finding.damage.object_name.endswith(": gists")]
        if len(of_gists) < len(in_catalog):
            self._try("the index", self.rebuild_index)
        compared = [finding for finding in findings if finding.was_compared]
        if in_catalog or compared:
            self._try("gists in the catalog", self._gists.mend_rows, compared)
        if in_catalog:
            self._try("gists in the catalog", self._gists.keep_missing)
        self._reader.forget()

    @staticmethod
    def _try(name: str, mend: Callable[..., None], *what: object) -> None:
        try:
            mend(*what)
        except MegaContextError as error:
            _log.warning("%s cannot be repaired: %s", name, error)

    def _mend_layout(self, _: Finding) -> None:
        arrays = sealed_arrays(self._parts.info, self._reader.state)
        self._parts.arrays.mend_layout([array.spec for array in arrays])

    def _mend_blob(self, finding: Finding) -> None:
        blobs = self._parts.blobs
        num_bytes, pieces = self._lost_blobs.find(finding.digest)
        if num_bytes >= LONG_BYTES and isinstance(blobs, SupportsLongBlobs):
            with blobs.stream() as sink:
                for piece in pieces:
                    sink.write(piece)
                sink.finish()
            return
        data = b"".join(pieces)
        blobs.delete(finding.digest)
        blobs.put(data)

    def _mend_tokens(self, finding: Finding) -> None:
        self.rewrite_tokens(finding.shard)

    def rewrite_tokens(self, segment: int) -> None:
        """A sealed segment again, from its sources; CorruptionError if they do not give what its digest says."""
        size = self._parts.info.segment_tokens
        tokens = self._rebuilder.tokens(segment * size, (segment + 1) * size)
        wanted = next(s.digest for s in self._parts.catalog.segments() if s.segment == segment)
        if token_digest(tokens) != wanted:
            raise CorruptionError(f"tokens of segment {segment}: their sources encode to others; restore a backup")
        self._parts.arrays.write_shard(token_spec(self._parts.info), segment, tokens)

    def _mend_tail(self, damage: Damage) -> None:
        """Tail rows from the sources, where the catalog had no second copy of them."""
        start = max(damage.token_start, self._reader.state.sealed_tokens)
        stop = min(damage.token_stop, self._reader.num_tokens)
        if not damage.object_name.endswith("tail") or start >= stop:
            return
        try:
            self._reader.tokens(start, stop)
        except CorruptionError:
            tokens = self._rebuilder.tokens(start, stop)
            with self._parts.catalog.write() as writer:
                writer.replace_tail(start, tokens)

    def _mend_gists(self, finding: Finding) -> None:
        self._gists.write_shard(finding.level, finding.shard)

    def rebuild_index(self) -> None:
        """Index the whole history anew, in one transaction."""
        K = self._parts.info.block_tokens
        size = self._parts.info.segment_tokens
        with self._parts.catalog.write() as writer:
            writer.drop_index()
            pending, start = np.empty(0, np.uint32), 0
            for first in range(0, self._reader.num_tokens, size):
                last = min(first + size, self._reader.num_tokens)
                pending = np.concatenate([pending, self._reader.tokens(first, last)])
                passages = list(passages_from(pending, start, K, self._parts.codec))
                if passages:
                    writer.add_passages(passages)
                    done = passages[-1].token_start + STRIDE_BLOCKS * K - start
                    pending, start = pending[done:], start + done
