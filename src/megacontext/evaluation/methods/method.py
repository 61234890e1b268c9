"""Ways to give a model with a small window a long history, behind one interface: what is compared with what.

    Method                  answer(question), nll(tokens), within budget_entries
    ├── PlainWindow         a window of tokens only; its kinds differ in which tokens
    │   ├── Recency         the last ones
    │   ├── Sinks           the first few and the last ones (StreamingLLM)
    │   ├── Retrieval       the best passages of a full-text search, in order of time, then the last tokens (RAG)
    │   ├── DenseRetrieval  the same with passages found by their embeddings
    │   ├── WithoutGists    the raw tokens of a MegaContext window, its gists left out
    │   └── FullContext     all of them; its window is as long as the history
    └── FocusedMemory       MegaContext: a cut through the gist tree, moved by a lens
        └── OracleFocus     the same with a lens that knows where the answer is

All run the same base model with the same prompt, count every token in the window (history, question and answer), and
search the same index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megacontext.ports.base import Base
from megacontext.runtime.opened import OpenedMemory

__all__ = ["ANSWER_TOKENS", "NOTHING", "NO_TOKENS", "Lead", "Method", "Span", "TokenIds"]

ANSWER_TOKENS = 12

TokenIds = npt.NDArray[np.uint32]
Span = tuple[int, int]

NO_TOKENS: TokenIds = np.zeros(0, dtype=np.uint32)
NO_TOKENS.flags.writeable = False


@dataclass(frozen=True, kw_only=True)
class Lead:
    """What stands between the history and what is scored.

    token_ids: shown but not scored; query: what a method may look for in the history, None for its last words;
    evidence: where the answer stands, for the oracle's eyes only; reserve_entries: room kept for what is scored, so
    that continuations of different lengths see the same window.
    """

    token_ids: TokenIds = field(default_factory=lambda: NO_TOKENS)
    query: str | None = None
    evidence: Sequence[Span] = ()
    reserve_entries: int = 0


NOTHING = Lead()


class Method(ABC):
    """One way to use a window of ``budget_entries`` over a memory."""

    name: str
    label: str

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int) -> None:
        self.memory = memory
        self.base = base
        self.budget_entries = budget_entries

    @abstractmethod
    def answer(self, question: str, *, evidence: Sequence[Span], max_new_tokens: int = ANSWER_TOKENS) -> str:
        """What the model answers, greedily, up to the end of the line. ``evidence``: where the answer stands in the
        memory, for the oracle's eyes only."""

    @abstractmethod
    def nll(self, token_ids: TokenIds, *, after: Lead = NOTHING) -> npt.NDArray[np.float64]:
        """Nats of each token as a continuation of the history and of ``after``."""

    def close(self) -> None:  # noqa: B027 (most methods hold nothing)
        """Free what the method holds."""
