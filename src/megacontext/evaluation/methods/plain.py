"""Windows of tokens only: the last ones, the first and the last, all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.evaluation.methods.method import ANSWER_TOKENS, NOTHING, Lead, Method, Span, TokenIds
from megacontext.runtime.session import RECENT_QUERY_TOKENS

__all__ = ["FullContext", "PlainWindow", "Recency", "Sinks"]

SINK_TOKENS = 4


class PlainWindow(Method):
    """Tokens of the history, chosen by `context_ids`, then the prompt. Positions count within the window."""

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
        prompt = self.base.info.question_template.format(question=question)
        prompt_ids = self.base.codec.encode(prompt).token_ids
        context_ids = self.context_ids(question, self.window_room(len(prompt_ids) + max_new_tokens))
        return self._continue(np.concatenate([context_ids, prompt_ids]), max_new_tokens)

    def nll(self, token_ids: TokenIds, *, after: Lead = NOTHING) -> npt.NDArray[np.float64]:
        import torch

        num_tokens = self.memory.num_tokens
        query = after.query
        if query is None:
            query = self.memory.text(max(0, num_tokens - RECENT_QUERY_TOKENS), num_tokens)
        context_ids = self.context_ids(query, self.window_room(len(after.token_ids) + len(token_ids)))
        window_ids = np.concatenate([context_ids, after.token_ids, token_ids[:-1]])
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

    def _continue(self, window_ids: TokenIds, max_new_tokens: int) -> str:
        """The likeliest tokens after a window, one by one, up to the end of a line that says something."""
        cache = self.base.new_cache(len(window_ids) + max_new_tokens)
        new_ids: list[int] = []
        text = ""
        next_ids, position = window_ids, 0
        while len(new_ids) < max_new_tokens:
            positions_T = position + np.arange(len(next_ids), dtype=np.float64)
            logits_V = self.base.forward(self.base.embed(next_ids), positions_T, cache)[-1]
            position += len(next_ids)
            new_ids.append(int(logits_V.argmax()))
            next_ids = np.array(new_ids[-1:], dtype=np.uint32)
            text = self.base.codec.decode(np.array(new_ids, dtype=np.uint32))
            if new_ids[-1] in self.base.info.stop_token_ids or "\n" in text.lstrip():
                break
        return text


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
