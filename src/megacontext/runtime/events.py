"""What a session reports: the stream of a generation, the account of a refocus, and the sources behind an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = [
    "DoneEvent",
    "ExplainedSpan",
    "GenerationEvent",
    "RefocusEvent",
    "RefocusReport",
    "TokenEvent",
    "WarningEvent",
]


@dataclass(frozen=True, kw_only=True)
class RefocusReport:
    """What one refocus changed. num_expanded, num_collapsed: edits of the cut; num_entries: rows of the cut after it;
    cost: window positions that they take; latency_ms: lens and allocator, and the first pass of the model if the lens
    asked for its attention; num_refreshes: how often the window was computed anew because patches had let it drift
    beyond its bound (where the lens looked and, in a stream, where the answer goes on); warnings: what was not as it
    should be, for one thing because a store did not answer (a stream has ``WarningEvent`` for it)."""

    num_expanded: int
    num_collapsed: int
    num_entries: int
    cost: int
    latency_ms: float
    num_refreshes: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TokenEvent:
    """One generated token. text: what it adds to the answer ('' while a character is incomplete)."""

    token_id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class RefocusEvent:
    """The working context moved. num_generated: tokens of the answer so far."""

    report: RefocusReport
    num_generated: int


@dataclass(frozen=True, kw_only=True)
class WarningEvent:
    """The answer goes on, but with less than it should have: a store does not answer, say. text: one line."""

    text: str


@dataclass(frozen=True, kw_only=True)
class DoneEvent:
    """The generation ended. reason: ``stop`` (a stop token or text, or the end of the answer's line) or
    ``length`` (max_new_tokens)."""

    text: str
    token_ids: Sequence[int]
    reason: str


GenerationEvent = TokenEvent | RefocusEvent | WarningEvent | DoneEvent


@dataclass(frozen=True, kw_only=True)
class ExplainedSpan:
    """A stretch of a source that was raw in the window.

    shown_because: ``focus`` (the lens brought it), ``pinned``, ``recent`` (the tail is always there) or ``sink`` (so is
    the beginning). score: what the lens and the model's attention gave to it, 0 for what is always there.
    byte_start, byte_stop, line_start, line_stop: place in the source (lines from 1, inclusive; 0 where it has none).
    """

    uri: str
    title: str = ""
    role: str = ""
    token_start: int
    token_stop: int
    byte_start: int
    byte_stop: int
    line_start: int
    line_stop: int
    quote: str
    score: float
    shown_because: str
    labels: dict[str, str] = field(default_factory=dict)
