"""Reads of the tree at any level, one span or many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.ports.gister import GistBatch

__all__ = ["TreeReader"]


class TreeReader:
    """Tokens and gists wherever they are: sealed shards, the catalog's tail, or not computed yet."""

    @property
    def num_tokens(self) -> int: ...

    def refresh(self) -> int:
        """See the last commit; the number of tokens."""
        ...

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Token ids of ``[start, stop)``."""
        ...

    def token_batch(self, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.uint32]]:
        """Token ids of many spans in one batch of reads, in the order given."""
        ...

    def gists(self, level: int, start: int, stop: int) -> GistBatch:
        """Gists of nodes ``[start, stop)`` of a level >= 1, with offsets and weights."""
        ...

    def gist_batch(self, levels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]) -> GistBatch:
        """Gists of many nodes (levels[i], indices[i]), any order and any levels >= 1, in one batch of reads."""
        ...
