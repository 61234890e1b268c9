"""MegaContext as a method: the product's own sessions, with one lens or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.evaluation.methods.foreign import ForeignGists, session_of
from megacontext.evaluation.methods.method import ANSWER_TOKENS, NOTHING, Lead, Method, Span, TokenIds
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.ports.base import Base
from megacontext.ports.focus import Allocator, Lens
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.events import DoneEvent
from megacontext.runtime.opened import OpenedMemory

__all__ = ["RECENCY", "FocusedMemory", "OracleFocus", "WindowShape", "recent_room", "sink_room"]

RECENT_TOKENS = 64  # what a session keeps raw unless the window is small
RECENT_SHARE = 8
LEAST_FOR_SINKS = 256


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """What moves the cut, and how many of the last and first tokens stay raw. recent_tokens, sink_tokens: None for as
    many as the budget lets."""

    lens: str | Lens = "auto"
    allocator: str | Allocator = "greedy"
    recent_tokens: int | None = None
    sink_tokens: int | None = None

    def config(self, budget_entries: int) -> SessionConfig:
        recent = recent_room(budget_entries) if self.recent_tokens is None else self.recent_tokens
        return SessionConfig(
            budget_entries=budget_entries,
            lens=self.lens,
            allocator=self.allocator,
            recent_tokens=recent,
            sink_tokens=sink_room(budget_entries) if self.sink_tokens is None else self.sink_tokens,
        )


AUTO, RECENCY = WindowShape(), WindowShape(lens="recency")


class FocusedMemory(Method):
    """MegaContext: a lens (``auto``) moves the cut to what the question needs.

    gists: read instead of the memory's own.
    """

    name = "megacontext"
    label = "MegaContext"

    def __init__(
        self,
        memory: OpenedMemory,
        base: Base,
        *,
        budget_entries: int,
        shape: WindowShape = AUTO,
        gists: ForeignGists | None = None,
    ) -> None:
        super().__init__(memory, base, budget_entries=budget_entries)
        self.session = session_of(memory, shape.config(budget_entries), gists)

    def answer(self, question: str, *, evidence: Sequence[Span], max_new_tokens: int = ANSWER_TOKENS) -> str:
        events = self.session.generate(question, max_new_tokens=max_new_tokens)
        return next(event.text for event in events if isinstance(event, DoneEvent))

    def nll(self, token_ids: TokenIds, *, after: Lead = NOTHING) -> npt.NDArray[np.float64]:
        num_lead = len(after.token_ids)
        num_scored = max(after.reserve_entries, len(token_ids))
        self.session.refocus(after.query, reserve_entries=num_lead + num_scored)
        return self.session.nll(np.concatenate([after.token_ids, token_ids]))[num_lead:]

    def close(self) -> None:
        self.session.close()


class OracleFocus(FocusedMemory):
    """MegaContext with perfect focus: the blocks of the evidence are opened, the rest of the window is recent tokens.

    Where no evidence is known, as for most continuations, the lens may look at what really comes next, which no real
    lens could (its words are the query).
    """

    name = "oracle"
    label = "oracle focus"

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int) -> None:
        self._lens = OracleLens(spans=())  # told before each question
        super().__init__(memory, base, budget_entries=budget_entries, shape=WindowShape(lens=self._lens))
        self._told = FocusedMemory(memory, base, budget_entries=budget_entries)

    def answer(self, question: str, *, evidence: Sequence[Span], max_new_tokens: int = ANSWER_TOKENS) -> str:
        self._lens.spans = tuple(evidence)
        return super().answer(question, evidence=evidence, max_new_tokens=max_new_tokens)

    def nll(self, token_ids: TokenIds, *, after: Lead = NOTHING) -> npt.NDArray[np.float64]:
        if after.evidence:
            self._lens.spans = tuple(after.evidence)
            return super().nll(token_ids, after=after)
        told = Lead(token_ids=after.token_ids, query=self.base.codec.decode(token_ids))
        return self._told.nll(token_ids, after=told)

    def close(self) -> None:
        super().close()
        self._told.close()


def sink_room(budget_entries: int) -> int:
    """How many of the first tokens stay raw: none where the window is small, because their whole block stays with them,
    and a gist for each of its neighbours.

    >>> sink_room(256), sink_room(128)
    (4, 0)
    """
    return SessionConfig.sink_tokens if budget_entries >= LEAST_FOR_SINKS else 0


def recent_room(budget_entries: int) -> int:
    """How many of the last tokens stay raw: fewer where the window is small, or they would fill it.

    >>> recent_room(1024), recent_room(128)
    (64, 16)
    """
    return min(RECENT_TOKENS, budget_entries // RECENT_SHARE)
