"""``mean``: the average of a span's token embeddings; upper levels average their children.

The simplest gist there is, and the baseline that a learned one must beat. It needs the embedding matrix and nothing
else of the base, so a memory with mean gists never loads torch; millions of tokens per second.

Shape legend: n nodes, K block_tokens, r gist_width, D embedding width.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from megacontext.gisters.source import whole_blocks
from megacontext.ports.base import BaseSource
from megacontext.ports.gister import GistBatch

__all__ = ["MeanGister"]

# Nodes averaged at once: so many that their sums stay in the second-level cache.
CHUNK_BYTES = 1 << 18


class MeanGister:
    """Each of the r vectors is the mean of one r-th of the span, at the middle of it."""

    name = "mean"
    version = "1"
    context_tokens = 0

    def __init__(self, source: BaseSource, *, block_tokens: int, gist_width: int) -> None:
        self.block_tokens = block_tokens
        self.window_tokens = block_tokens
        self.gist_width = gist_width
        self.dim = source.info.dim
        self.spread = 12**-0.5 / gist_width
        self._source = source

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        """Level-1 gists of whole blocks."""
        ids_nK = whole_blocks(token_ids, start=start, num_context=num_context, block_tokens=self.block_tokens)
        rows = self._source.embeddings.rows
        vectors = np.empty((len(ids_nK), self.gist_width, self.dim), dtype=np.float16)
        offsets = np.empty((len(ids_nK), self.gist_width), dtype=np.float32)
        borders = [part * self.block_tokens // self.gist_width for part in range(self.gist_width + 1)]
        chunk = max(1, CHUNK_BYTES // (4 * self.dim))
        for part, (low, high) in enumerate(itertools.pairwise(borders)):
            offsets[:, part] = (low + high - 1) / 2
            for first in range(0, len(ids_nK), chunk):
                ids = ids_nK[first : first + chunk]
                total = rows(ids[:, low])
                for column in range(low + 1, high):  # one token after another: the same sum for any number of nodes
                    total += rows(ids[:, column])
                vectors[first : first + chunk, part] = total / np.float32(high - low)
        return self._batch(vectors, offsets)

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        """Gists of ``level`` from those of K x n children."""
        width, fan_in = self.gist_width, self.block_tokens
        shape = (len(children) // fan_in, width, fan_in)  # K x r vectors in order fall into r groups of K
        below = children.vectors.reshape(*shape, self.dim)
        total = below[:, :, 0].astype(np.float32)
        for column in range(1, fan_in):
            total += below[:, :, column]
        child_starts = np.arange(fan_in, dtype=np.float64) * fan_in ** (level - 1)
        places = children.offsets.reshape(-1, fan_in, width) + child_starts[:, None]
        offsets = places.reshape(shape).mean(axis=2).astype(np.float32)
        return self._batch((total / np.float32(fan_in)).astype(np.float16), offsets)

    @staticmethod
    def _batch(vectors: npt.NDArray[np.float16], offsets: npt.NDArray[np.float32]) -> GistBatch:
        return GistBatch(vectors=vectors, offsets=offsets, weights=np.ones_like(offsets))
