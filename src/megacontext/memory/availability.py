"""Rows of a cut across a slow store: what can be read now, asked when a read has failed, and what is fetched ahead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import CorruptionError, StorageError
from megacontext.memory.gist_reads import GistReader
from megacontext.memory.layout import gist_spec, meta_spec, token_spec
from megacontext.memory.parts import Parts
from megacontext.memory.scans import Span
from megacontext.memory.snapshot import Snapshot
from megacontext.ports.arrays import ArraySpec, SupportsPrefetch
from megacontext.tree.cuts import Cut

__all__ = ["Availability"]


class Availability:
    """Tries and fetches rows of a cut. What is damaged is not absent: CorruptionError, as whoever reads it is told."""

    def __init__(self, parts: Parts, snapshot: Snapshot, gists: GistReader) -> None:
        self._parts = parts
        self._snapshot = snapshot
        self._gists = gists

    def of(self, cut: Cut) -> npt.NDArray[np.bool_]:
        """Whether each row [n] could be read; what could be is in the store's cache then."""
        found = np.ones(len(cut), dtype=np.bool_)
        for level in np.unique(cut.levels).tolist():
            rows = np.flatnonzero(cut.levels == level)
            found[rows] = self._gists_of(level, cut.starts[rows]) if level else self._tokens_of(cut[rows])
        return found

    def prefetch(self, cut: Cut) -> None:
        """Begin to fetch what these rows show, if the store is one that can."""
        arrays, info = self._parts.arrays, self._parts.info
        if not isinstance(arrays, SupportsPrefetch):
            return
        for level in np.unique(cut.levels).tolist():
            rows, width = cut[cut.levels == level], self._parts.tree.width(level)
            sealed = self._snapshot.sealed_nodes(level) if level else self._snapshot.state.sealed_tokens
            starts = rows.starts // width
            stops = np.minimum(starts + 1 if level else rows.stops, sealed)
            spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
            for spec in (gist_spec(info, level), meta_spec(info, level)) if level else (token_spec(info),):
                arrays.prefetch(spec, spans)

    def _tokens_of(self, cut: Cut) -> npt.NDArray[np.bool_]:
        stops = np.minimum(cut.stops, self._snapshot.state.sealed_tokens)  # what is not sealed is in the catalog
        spans = list(zip(cut.starts.tolist(), np.maximum(cut.starts, stops).tolist(), strict=True))
        return self._try([token_spec(self._parts.info)], spans)

    def _gists_of(self, level: int, starts_n: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        nodes = starts_n // self._parts.tree.width(level)
        is_sealed = nodes < self._snapshot.sealed_nodes(level)
        found = np.ones(len(nodes), dtype=np.bool_)
        info = self._parts.info
        spans = [(node, node + 1) for node in nodes[is_sealed].tolist()]
        found[is_sealed] = self._try([gist_spec(info, level), meta_spec(info, level)], spans)
        if not is_sealed.all():
            waiting = nodes[~is_sealed]
            try:  # in the catalog, or computed of what lies below
                self._gists.batch(np.full(len(waiting), level), waiting)
            except CorruptionError:
                raise
            except StorageError:
                found[~is_sealed] = False
        return found

    def _try(self, specs: list[ArraySpec], spans: list[Span]) -> npt.NDArray[np.bool_]:
        found = np.ones(len(spans), dtype=np.bool_)
        for spec in specs:
            for row, read in enumerate(self._parts.arrays.read_each(spec, spans) if spans else []):
                if isinstance(read, CorruptionError):
                    raise read
                if isinstance(read, StorageError):
                    found[row] = False
        return found
