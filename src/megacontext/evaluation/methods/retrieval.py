"""Retrieval-augmented generation: passages that match the question, then the last tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from megacontext.evaluation.methods.method import Span, TokenIds
from megacontext.evaluation.methods.plain import PlainWindow
from megacontext.memory.passages import PASSAGE_BLOCKS
from megacontext.ports.base import Base
from megacontext.runtime.opened import OpenedMemory

__all__ = ["SEARCH_LIMIT", "SMALL_WINDOW_PASSAGES", "PassageRetrieval", "Retrieval", "best_spans"]

SEARCH_LIMIT = 32
SMALL_WINDOW_PASSAGES = 248


class PassageRetrieval(PlainWindow):
    """The best passages, in order of time, each closed by a line end; the rest of the window is the last tokens.

    passage_tokens: room for passages, at most half of the window; one of them at least where it fits at all, however
    long the memory's blocks make it. The default, one passage or two that overlap, is what serves the reference model
    best: of 50 facts in 309 k tokens it finds 50 with 248 and 46 with 495, because a second fact misleads so small a
    model (an early checkpoint, 40 facts: 37 with 138, 38 with 248, 32 with 346, 23 with 495).
    """

    def __init__(
        self, memory: OpenedMemory, base: Base, *, budget_entries: int, passage_tokens: int = SMALL_WINDOW_PASSAGES
    ) -> None:
        super().__init__(memory, base, budget_entries=budget_entries)
        self.passage_tokens = passage_tokens
        self._separator = base.codec.encode("\n").token_ids

    @abstractmethod
    def passages(self, query: str) -> Sequence[Span]:
        """Spans of the history, best first."""

    def context_ids(self, query: str, room: int) -> TokenIds:
        num_tokens = self.memory.num_tokens
        if num_tokens <= room:
            return self.memory.tokens(0, num_tokens)
        one_passage = PASSAGE_BLOCKS * self.memory.info.block_tokens + len(self._separator)
        passage_room = min(max(self.passage_tokens, one_passage), max(room // 2, min(one_passage, room)))
        recent_start = num_tokens - (room - passage_room)
        spans = [(start, min(stop, recent_start)) for start, stop in self.passages(query) if start < recent_start]
        chosen = best_spans(spans, room=passage_room, overhead=len(self._separator))
        parts = [part for span in chosen for part in (self.memory.tokens(*span), self._separator)]
        used = sum(map(len, parts))
        return np.concatenate([*parts, self.memory.tokens(num_tokens - (room - used), num_tokens)])


class Retrieval(PassageRetrieval):
    """Passages of a full-text search (BM25)."""

    name = "rag"
    label = "RAG"

    def passages(self, query: str) -> Sequence[Span]:
        return [(hit.token_start, hit.token_stop) for hit in self.memory.search_hits(query, limit=SEARCH_LIMIT)]


def best_spans(spans: Sequence[Span], *, room: int, overhead: int) -> list[Span]:
    """The first of ``spans`` (best first) that fit into ``room`` tokens with ``overhead`` for each stretch, those that
    touch joined, in order of time.

    >>> best_spans([(96, 224), (0, 128), (900, 1028)], room=260, overhead=1)
    [(0, 224)]
    """
    chosen: list[Span] = []
    for span in spans:
        joined = _joined([*chosen, span])
        if sum(stop - start + overhead for start, stop in joined) > room:
            break
        chosen = joined
    return chosen


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
