"""What makes gists.

Shape legend: n nodes, r gist vectors per node (``gist_width``), d embedding width, K children per node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["CostlyGister", "GistBatch", "Gister"]


@dataclass(frozen=True, kw_only=True)
class GistBatch:
    """Gists of n consecutive nodes of one level.

    vectors: float16 [n, r, d], in the base model's input-embedding space.
    offsets: float32 [n, r], position of each vector in tokens from the start of its node's span, ascending in r.
    weights: float32 [n, r], how much each vector says (nats of surprise for ``extractive``, 1 for ``mean``);
        upper levels choose by it.
    """

    vectors: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: slice) -> GistBatch:
        return GistBatch(vectors=self.vectors[rows], offsets=self.offsets[rows], weights=self.weights[rows])


@runtime_checkable
class Gister(Protocol):
    """Turns the K tokens of a block, or K gists, into one gist.

    A token's context must be a function of its position alone, or appending in pieces would not equal building at
    once: the gist of a block may depend on the tokens from ``context_start(block start)`` on, where
    ``context_start(t) = max(0, t // window_tokens * window_tokens - context_tokens)``. A gister that looks at each
    block by itself has ``window_tokens = block_tokens`` and ``context_tokens = 0``.
    """

    name: str
    version: str  # changes whenever the same tokens would give other gists
    gist_width: int
    dim: int
    block_tokens: int
    window_tokens: int
    context_tokens: int
    spread: float  # sigma of a gist's position over the width of its span: 0 for exact tokens, 12 ** -0.5 for a mean

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        """Level-1 gists of the whole blocks in ``token_ids[num_context:]``; ``start`` is the position of
        ``token_ids[0]`` in the memory."""
        ...

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        """Gists of ``level`` (>= 2) from K x n children of the level below, in order."""
        ...


@runtime_checkable
class CostlyGister(Protocol):
    """A gister whose every gist has a price, as a call of a server has. Its gists are kept after every
    ``nodes_at_once`` of them, made by an ingest or when somebody asks for them, and never ahead of a commit or again
    to compare them."""

    nodes_at_once: int
