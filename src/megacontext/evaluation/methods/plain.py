"""Windows of tokens only: the last ones, the first and the last, all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.evaluation.methods.method import ANSWER_TOKENS, NO_TOKENS, NOTHING, Lead, Method, Span, TokenIds
from megacontext.ports.base import Base, ModelCache, lead_ids, question_ids
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import RECENT_QUERY_TOKENS

if TYPE_CHECKING:
    import torch

__all__ = ["FullContext", "PlainWindow", "Recency", "Sinks"]

SINK_TOKENS = 4


class PlainWindow(Method):
    """Tokens of the history, chosen by `context_ids`, then the prompt. Positions count within the window."""

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int) -> None:
        super().__init__(memory, base, budget_entries=budget_entries)
        self._cache: ModelCache | None = None
        self._cached_ids: TokenIds = NO_TOKENS

    @abstractmethod
    def context_ids(self, query: str, room: int) -> TokenIds:
        """At most ``room`` tokens to put before the prompt."""

    def window_room(self, num_prompt: int) -> int:
        """Entries that the prompt leaves to the history."""
        limit = self.base.info.max_positions
        if self.budget_entries > limit:
            raise BudgetError(
                f"budget_entries is {self.budget_entries}, but the base {self.base.info.name} was made for windows of "
                f"at most {limit}: use a budget of {limit} or less"
            )
        if num_prompt >= self.budget_entries:
            raise BudgetError(
                f"budget_entries is {self.budget_entries}, but question and answer need {num_prompt} entries: use a "
                f"budget of at least {num_prompt + 1}"
            )
        return self.budget_entries - num_prompt

    def answer(self, question: str, *, evidence: Sequence[Span], max_new_tokens: int = ANSWER_TOKENS) -> str:
        prompt_ids, lead = question_ids(self.base.info, self.base.codec, question), lead_ids(self.base.info)
        context_ids = self.context_ids(question, self.window_room(len(lead) + len(prompt_ids) + max_new_tokens))
        return self._continue(np.concatenate([lead, context_ids, prompt_ids]), max_new_tokens)

    def nll(self, token_ids: TokenIds, *, after: Lead = NOTHING) -> npt.NDArray[np.float64]:
        import torch

        num_tokens = self.memory.num_tokens
        query = after.query
        if query is None:
            query = self.memory.text(max(0, num_tokens - RECENT_QUERY_TOKENS), num_tokens)
        lead = lead_ids(self.base.info)
        room = self.window_room(len(lead) + len(after.token_ids) + max(after.reserve_entries, len(token_ids)))
        window_ids = np.concatenate([lead, self.context_ids(query, room), after.token_ids, token_ids[:-1]])
        logits_TV = self._logits(window_ids, len(token_ids))
        targets_T = torch.from_numpy(token_ids.astype(np.int64)).to(logits_TV.device)
        nats_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
        nats: npt.NDArray[np.float64] = nats_T.double().cpu().numpy()
        return nats

    def close(self) -> None:
        self._cache, self._cached_ids = None, NO_TOKENS

    def _logits(self, window_ids: TokenIds, num_logits: int) -> torch.Tensor:
        """Of the last entries of a window; what it shares with the one before is not run again."""
        if self._cache is None:
            self._cache = self.base.new_cache(len(window_ids) + ANSWER_TOKENS)
        shared = min(len(window_ids) - num_logits, _num_shared(window_ids, self._cached_ids))
        self._cache.truncate(shared)
        self._cached_ids = window_ids
        positions_T = np.arange(shared, len(window_ids), dtype=np.float64)
        return self.base.forward(self.base.embed(window_ids[shared:]), positions_T, self._cache, num_logits=num_logits)

    def _continue(self, window_ids: TokenIds, max_new_tokens: int) -> str:
        """The likeliest tokens after a window, one by one, up to where a session ends an answer: what a base's turn
        ends with, or its own line end."""
        info = self.base.info
        stops = () if info.question_after_ids else info.answer_stops
        new_ids: list[int] = []
        text = ""
        while len(new_ids) < max_new_tokens:
            new_ids.append(int(self._logits(window_ids, 1)[-1].argmax()))
            text = self.base.codec.decode(np.array(new_ids, dtype=np.uint32))
            if new_ids[-1] in info.stop_token_ids or any(stop in text.lstrip() for stop in stops):
                break
            window_ids = np.append(window_ids, np.uint32(new_ids[-1]))
        return text


def _num_shared(left: TokenIds, right: TokenIds) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length


class Recency(PlainWindow):
    """The last tokens: what every model does that forgets what leaves its window."""

    name = "recency"
    label = "recency"

    def context_ids(self, query: str, room: int) -> TokenIds:
        return self.memory.tokens(max(0, self.memory.num_tokens - room), self.memory.num_tokens)


class Sinks(PlainWindow):
    """The first tokens, which attention leans on, and the last ones; positions count within the window.

    Source: Xiao et al. (2023), Efficient streaming language models with attention sinks (StreamingLLM).
    """

    name = "sinks"
    label = "sinks + recency"

    def context_ids(self, query: str, room: int) -> TokenIds:
        num_tokens = self.memory.num_tokens
        if num_tokens <= room:
            return self.memory.tokens(0, num_tokens)
        num_first = min(SINK_TOKENS, room)
        first, last = self.memory.tokens(0, num_first), self.memory.tokens(num_tokens - room + num_first, num_tokens)
        return np.concatenate([first, last])


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
