"""Ways to give a model with a small window a long history, behind one interface: what is compared with what.

    Method                  answer(question), nll(tokens), within budget_entries
    ├── PlainWindow         a window of tokens only; its kinds differ in which tokens
    │   ├── Recency         the last ones
    │   ├── Retrieval       the best passages of a full-text search, in order of time, then the last tokens (RAG)
    │   └── FullContext     all of them; its window is as long as the history
    └── FocusedMemory       MegaContext: a cut through the gist tree, moved by a lens
        └── OracleFocus     the same with a lens that knows where the answer is

All run the same base model with the same prompt, count every token in the window (history, question and answer), and
search the same index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.ports.base import Base
from megacontext.ports.focus import Lens
from megacontext.runtime.events import DoneEvent
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import RECENT_QUERY_TOKENS

__all__ = [
    "ANSWER_TOKENS",
    "FocusedMemory",
    "FullContext",
    "Method",
    "OracleFocus",
    "PlainWindow",
    "Recency",
    "Retrieval",
    "Span",
    "TokenIds",
]

ANSWER_TOKENS = 12
SEARCH_LIMIT = 32

TokenIds = npt.NDArray[np.uint32]
Span = tuple[int, int]


class Method(ABC):
    """One way to use a window of ``budget_entries`` over a memory."""

    name: str
    label: str

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int) -> None:
        self.memory = memory
        self.base = base
        self.budget_entries = budget_entries

    @abstractmethod
    def answer(self, question: str, *, evidence: Span) -> str:
        """What the model answers, greedily, at most ANSWER_TOKENS tokens. ``evidence``: where the answer stands in
        the memory, for the oracle's eyes only."""

    @abstractmethod
    def nll(self, token_ids: TokenIds) -> npt.NDArray[np.float64]:
        """Nats of each token as a continuation of the history."""

    def close(self) -> None:  # noqa: B027 (most methods hold nothing)
        """Free what the method holds."""


class PlainWindow(Method):
    """Tokens of the history, chosen by `context_ids`, then the prompt."""

    @abstractmethod
    def context_ids(self, query: str, room: int) -> TokenIds:
        """At most ``room`` tokens to put before the prompt."""

    def window_room(self, num_prompt: int) -> int:
        """Entries that the prompt leaves to the history."""
        return self.budget_entries - num_prompt

    def answer(self, question: str, *, evidence: Span) -> str:
        prompt = self.base.info.question_template.format(question=question)
        prompt_ids = self.base.codec.encode(prompt).token_ids
        context_ids = self.context_ids(question, self.window_room(len(prompt_ids) + ANSWER_TOKENS))
        return self.base.codec.decode(self._continue(np.concatenate([context_ids, prompt_ids])))

    def nll(self, token_ids: TokenIds) -> npt.NDArray[np.float64]:
        import torch

        num_tokens = self.memory.num_tokens
        query = self.memory.text(max(0, num_tokens - RECENT_QUERY_TOKENS), num_tokens)
        context_ids = self.context_ids(query, self.window_room(len(token_ids)))
        window_ids = np.concatenate([context_ids, token_ids[:-1]])
        logits_TV = self.base.forward(
            self.base.embed(window_ids),
            np.arange(len(window_ids), dtype=np.float64),
            self.base.new_cache(len(window_ids)),
            num_logits=len(token_ids),
        )
        targets_T = torch.from_numpy(token_ids.astype(np.int64)).to(logits_TV.device)
        nats_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
        nats: npt.NDArray[np.float64] = nats_T.double().cpu().numpy()
        return nats

    def _continue(self, window_ids: TokenIds) -> TokenIds:
        """The likeliest tokens after a window, one by one."""
        cache = self.base.new_cache(len(window_ids) + ANSWER_TOKENS)
        new_ids: list[int] = []
        next_ids, position = window_ids, 0
        while len(new_ids) < ANSWER_TOKENS:
            positions_T = position + np.arange(len(next_ids), dtype=np.float64)
            logits_V = self.base.forward(self.base.embed(next_ids), positions_T, cache)[-1]
            position += len(next_ids)
            new_ids.append(int(logits_V.argmax()))
            next_ids = np.array(new_ids[-1:], dtype=np.uint32)
            if new_ids[-1] in self.base.info.stop_token_ids:
                break
        return np.array(new_ids, dtype=np.uint32)


class Recency(PlainWindow):
    """The last tokens: what every model does that forgets what leaves its window."""

    name = "recency"
    label = "recency"

    def context_ids(self, query: str, room: int) -> TokenIds:
        return self.memory.tokens(max(0, self.memory.num_tokens - room), self.memory.num_tokens)


class Retrieval(PlainWindow):
    """Retrieval-augmented generation: the passages that match best, in order of time, each closed by a line end; the
    rest of the window is the last tokens.

    passage_tokens: room for passages, at most half of the window. The default, one passage or two that overlap, is what
    serves the reference model best: of 50 facts in 309 k tokens it finds 50 with 248 and 46 with 495, because a second
    fact misleads so small a model (an early checkpoint, 40 facts: 37 with 138, 38 with 248, 32 with 346, 23 with 495).
    """

    name = "rag"
    label = "RAG"

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int, passage_tokens: int = 248) -> None:
        super().__init__(memory, base, budget_entries=budget_entries)
        self.passage_tokens = passage_tokens
        self._separator = base.codec.encode("\n").token_ids

    def context_ids(self, query: str, room: int) -> TokenIds:
        num_tokens = self.memory.num_tokens
        if num_tokens <= room:
            return self.memory.tokens(0, num_tokens)
        passage_room = min(self.passage_tokens, room // 2)
        hits = self.memory.search_hits(query, limit=SEARCH_LIMIT)
        recent_start = num_tokens - (room - passage_room)
        spans = [(hit.token_start, min(hit.token_stop, recent_start)) for hit in hits if hit.token_start < recent_start]
        chosen = best_spans(spans, room=passage_room, overhead=len(self._separator))
        parts = [part for span in chosen for part in (self.memory.tokens(*span), self._separator)]
        used = sum(map(len, parts))
        return np.concatenate([*parts, self.memory.tokens(num_tokens - (room - used), num_tokens)])


class FullContext(PlainWindow):
    """The whole history in one window as long as it needs: the limit, where the base was made for such windows."""

    name = "full"
    label = "full context"

    def window_room(self, num_prompt: int) -> int:
        room = self.base.info.max_positions - num_prompt
        if self.memory.num_tokens > room:
            raise BudgetError(
                f"a history of {self.memory.num_tokens} tokens does not fit into the {self.base.info.max_positions} "
                f"positions of {self.base.info.name}; compare with full context on at most {room} tokens"
            )
        return room

    def context_ids(self, query: str, room: int) -> TokenIds:
        return self.memory.tokens(0, self.memory.num_tokens)


class FocusedMemory(Method):
    """MegaContext without any training: the ``auto`` lens moves the cut to what the question needs."""

    name = "megacontext"
    label = "MegaContext"

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int, lens: str | Lens = "auto") -> None:
        super().__init__(memory, base, budget_entries=budget_entries)
        self.session = memory.session(budget_entries=budget_entries, lens=lens)

    def answer(self, question: str, *, evidence: Span) -> str:
        events = self.session.generate(question, max_new_tokens=ANSWER_TOKENS)
        return next(event.text for event in events if isinstance(event, DoneEvent))

    def nll(self, token_ids: TokenIds) -> npt.NDArray[np.float64]:
        self.session.refocus(reserve_entries=len(token_ids))
        return self.session.nll(token_ids)

    def close(self) -> None:
        self.session.close()


class OracleFocus(FocusedMemory):
    """MegaContext with perfect focus: the block of the answer is opened, the rest of the window is recent tokens.

    For continuations nobody knows the best cut; there the lens may look at the true continuation, which no real lens
    could (its words are the query).
    """

    name = "oracle"
    label = "oracle focus"

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int) -> None:
        self._lens = OracleLens()
        super().__init__(memory, base, budget_entries=budget_entries, lens=self._lens)
        self._told = FocusedMemory(memory, base, budget_entries=budget_entries)

    def answer(self, question: str, *, evidence: Span) -> str:
        self._lens.spans = (evidence,)
        return super().answer(question, evidence=evidence)

    def nll(self, token_ids: TokenIds) -> npt.NDArray[np.float64]:
        self._told.session.refocus(self.base.codec.decode(token_ids), reserve_entries=len(token_ids))
        return self._told.session.nll(token_ids)

    def close(self) -> None:
        super().close()
        self._told.close()


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
