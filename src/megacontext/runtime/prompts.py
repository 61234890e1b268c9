"""What stands after the history while an answer is written, and what its events say of the window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import MemoryStateError
from megacontext.runtime.engine import Engine, Query
from megacontext.runtime.events import GenerationEvent, RefocusEvent, RefocusReport, WarningEvent
from megacontext.values import texts, whole_number

__all__ = ["Prompt", "check_turn", "moved", "query_of"]

# of the answer so far, what a lens that goes by words is told: a refocus late in a long answer costs no more
RECENT_ANSWER_CHARS = 400


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """text, token_ids: what stands after the history; query: what it is about, for lenses that go by words."""

    text: str
    token_ids: npt.NDArray[np.uint32]
    query: str
    max_new_tokens: int
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        num_tokens = whole_number("max_new_tokens", self.max_new_tokens, least=1, of="tokens", usual=64)
        object.__setattr__(self, "max_new_tokens", num_tokens)
        object.__setattr__(self, "stop", texts("stop", self.stop))

    @property
    def reserve_entries(self) -> int:
        return len(self.token_ids) + self.max_new_tokens


def query_of(prompt: Prompt, answer: str, token_ids: list[int], *, num_queries: int) -> Query:
    """What the next tokens are about: the prompt, and what was answered so far."""
    scratch = np.concatenate([prompt.token_ids, np.array(token_ids, dtype=np.uint32)])
    return Query(
        text=f"{prompt.query} {answer[-RECENT_ANSWER_CHARS:]}".strip(),
        token_ids=scratch[len(scratch) - num_queries :],
        scratch=scratch,
        num_queries=num_queries,
    )


def moved(engine: Engine, report: RefocusReport, *, num_generated: int) -> Iterator[GenerationEvent]:
    """What people are told when the window has moved."""
    for warning in engine.take_warnings():
        yield WarningEvent(text=warning)
    yield RefocusEvent(report=report, num_generated=num_generated)


def check_turn(engine: Engine, turn: int) -> None:
    """Whether the answer can go on, after whoever has its events had the time to change things."""
    if engine.turn != turn:
        raise MemoryStateError(
            "this answer was overtaken: its session was asked, moved or closed meanwhile; open a session for each"
        )
    if engine.is_outdated:
        raise MemoryStateError("what this answer reads was erased or repaired meanwhile; ask again")
