"""Retrieval by embeddings, with what every base brings: its own table of input embeddings.

A passage is the mean of its tokens' embeddings, each weighed a / (a + p) by how frequent it is in the history, without
the direction that all passages share (Arora et al. 2017, A simple but tough-to-beat baseline for sentence embeddings).
That is a fair bag of words with synonyms, not a trained retriever: read its rows as such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.evaluation.methods.method import Span, TokenIds
from megacontext.evaluation.methods.retrieval import SEARCH_LIMIT, SMALL_WINDOW_PASSAGES, PassageRetrieval
from megacontext.memory.passages import PASSAGE_BLOCKS, STRIDE_BLOCKS
from megacontext.ports.base import Base
from megacontext.runtime.opened import OpenedMemory

__all__ = ["DenseRetrieval", "PassageIndex"]

SMOOTHING = 1e-3  # a of the paper


class PassageIndex:
    """Vectors [n, D] of the passages that the full-text index has too: equal length and stride."""

    def __init__(self, memory: OpenedMemory) -> None:
        self._rows = memory.base.embeddings.rows
        block = memory.info.block_tokens
        length, stride = PASSAGE_BLOCKS * block, STRIDE_BLOCKS * block
        num_tokens = memory.num_tokens
        self.spans: list[Span] = [
            (start, min(start + length, num_tokens)) for start in range(0, max(1, num_tokens - length + stride), stride)
        ]
        token_ids = memory.tokens(0, num_tokens)
        counts = np.bincount(token_ids, minlength=memory.info.vocab_size).astype(np.float64)
        self._weights = SMOOTHING / (SMOOTHING + counts / max(1, num_tokens))
        vectors = np.stack([self._mean(token_ids[start:stop]) for start, stop in self.spans])
        self._shared = vectors.mean(axis=0)
        self._vectors = _unit(vectors - self._shared)

    def best(self, query_ids: TokenIds, *, limit: int) -> list[Span]:
        """Passages by cosine with the query, best first."""
        if not len(query_ids):
            return []
        query = _unit((self._mean(query_ids) - self._shared)[None])[0]
        return [self.spans[row] for row in np.argsort(-(self._vectors @ query), kind="stable")[:limit].tolist()]

    def _mean(self, token_ids: TokenIds) -> npt.NDArray[np.float64]:
        weights = self._weights[token_ids]
        mean: npt.NDArray[np.float64] = (self._rows(token_ids) * weights[:, None]).sum(axis=0) / weights.sum()
        return mean


class DenseRetrieval(PassageRetrieval):
    """Passages nearest to the question in embedding space."""

    name = "rag-dense"
    label = "RAG, dense"

    def __init__(
        self, memory: OpenedMemory, base: Base, *, budget_entries: int, passage_tokens: int = SMALL_WINDOW_PASSAGES
    ) -> None:
        super().__init__(memory, base, budget_entries=budget_entries, passage_tokens=passage_tokens)
        self._index: PassageIndex | None = None

    def passages(self, query: str) -> Sequence[Span]:
        if self._index is None or self._index.spans[-1][1] != self.memory.num_tokens:
            self._index = PassageIndex(self.memory)
        return self._index.best(self.base.codec.encode(query).token_ids, limit=SEARCH_LIMIT)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled
