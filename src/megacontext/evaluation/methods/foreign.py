"""Gists from elsewhere: of other places of the history, or of another history.

A memory with wrong gists is the same memory with another reader: tokens, cuts, budgets and positions are those of the
real one, only the vectors that stand for collapsed spans are foreign. What a method gains with them too is no memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from megacontext.memory.memory import Memory
from megacontext.memory.reads import TreeReader
from megacontext.ports.gister import GistBatch
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session

__all__ = ["ForeignGists", "ShuffledGists", "SwappedGists", "session_of"]

Indices = npt.NDArray[np.int64]


class ForeignGists(ABC):
    """A tree reader whose gists come from elsewhere; everything else is the reader's own."""

    def __init__(self, reader: TreeReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def gist_batch(self, levels: Indices, indices: Indices) -> GistBatch:
        """The places of the wanted nodes, with foreign vectors."""
        own = self._reader.gist_batch(levels, indices)
        return GistBatch(vectors=self.vectors(levels, indices), offsets=own.offsets, weights=own.weights)

    @abstractmethod
    def vectors(self, levels: Indices, indices: Indices) -> npt.NDArray[np.float16]:
        """Vectors [n, r, d] to show instead of those of the nodes."""


class ShuffledGists(ForeignGists):
    """Gists of other places of the same history: every node shows one of another node of its level. Where a level has
    but one node, a gist of the level below stands in; the only node of level 1 has nothing to swap with."""

    def __init__(self, reader: TreeReader, memory: OpenedMemory, *, seed: int = 0) -> None:
        super().__init__(reader)
        self._memory = memory
        self._seed = seed

    def vectors(self, levels: Indices, indices: Indices) -> npt.NDArray[np.float16]:
        others = [self._other(level, index) for level, index in zip(levels.tolist(), indices.tolist(), strict=True)]
        there, where = np.array(others, dtype=np.int64).reshape(-1, 2).T
        return self._reader.gist_batch(there, where).vectors

    def _other(self, level: int, index: int) -> tuple[int, int]:
        num_nodes = self._memory.tree.num_nodes(level, self._memory.num_tokens)
        random = Random(f"{self._seed}/{level}/{index}")
        if num_nodes > 1:
            return level, (index + random.randrange(1, num_nodes)) % num_nodes
        if level == 1:
            return level, index
        return level - 1, random.randrange(self._memory.tree.num_nodes(level - 1, self._memory.num_tokens))


class SwappedGists(ForeignGists):
    """Gists of the same places of another history; a shorter one is read again from its beginning."""

    def __init__(self, reader: TreeReader, donor: OpenedMemory) -> None:
        super().__init__(reader)
        self._donor = donor

    def vectors(self, levels: Indices, indices: Indices) -> npt.NDArray[np.float16]:
        num_tokens, tree = self._donor.num_tokens, self._donor.tree
        there = levels.copy()
        while (short := np.array([tree.num_nodes(level, num_tokens) == 0 for level in there.tolist()])).any():
            there[short] -= 1  # a level that the other history has not grown yet
        counts = np.array([tree.num_nodes(level, num_tokens) for level in there.tolist()], dtype=np.int64)
        return self._donor.reader.gist_batch(there, indices % counts).vectors


class _Beheld:
    """A memory seen through another reader."""

    def __init__(self, memory: OpenedMemory, reader: ForeignGists) -> None:
        self._memory = memory
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


def session_of(memory: OpenedMemory, config: SessionConfig, reader: ForeignGists | None = None) -> Session:
    """A session over a memory, whose gists are read through ``reader`` if one is given."""
    beheld = memory if reader is None else cast("Memory", _Beheld(memory, reader))
    return Session(beheld, memory.base, config)
