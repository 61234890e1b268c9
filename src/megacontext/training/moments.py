"""When a lens is asked in a row: at its questions, or every few tokens of running text.

Shape legend: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megacontext.nets.shapes import QUERY_TOKENS
from megacontext.training.windows import Answer, Window

__all__ = ["HORIZON_TOKENS", "Moment", "moments_of"]

HORIZON_TOKENS = 16  # of text that follow a moment


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a row's lens is asked. query: positions [start, stop) of the last tokens; horizon: positions whose next
    tokens count; evidence: the blocks that state what is asked, none for plain text; told: those in
    which the value stands where it was stated last (all, where it never was: counts); answer: what is asked."""

    query: tuple[int, int]
    horizon: tuple[int, int]
    evidence: tuple[int, ...] = ()
    told: tuple[int, ...] = ()
    answer: Answer | None = None


def moments_of(
    row: Window,
    *,
    tail_tokens: int,
    block_tokens: int,
    query_tokens: int = QUERY_TOKENS,
    text_after: int = QUERY_TOKENS,
    horizon_tokens: int = HORIZON_TOKENS,
    step_tokens: int = HORIZON_TOKENS,
) -> list[Moment]:
    """Every question of the tail whose evidence lies before it, asked for the first time; in a row that asks nothing,
    every ``step_tokens`` behind the tail's first ``text_after``, with the ``horizon_tokens`` after it."""
    num_tokens = len(row.tokens_T)
    first = num_tokens - tail_tokens
    if not row.answers:
        return [
            Moment(query=(at - query_tokens, at), horizon=(at - 1, at - 1 + horizon_tokens))
            for at in range(first + max(text_after, query_tokens), num_tokens - horizon_tokens + 2, step_tokens)
        ]
    moments = []
    for answer in row.answers:
        is_first_time = not any(other.fact == answer.fact and other.start < answer.start for other in row.answers)
        query = (answer.asked - query_tokens, answer.asked)
        if query[0] >= first and is_first_time and all(stop <= first for _, stop in answer.evidence):
            blocks = _blocks_of(answer.evidence, block_tokens)
            moments.append(
                Moment(
                    query=query,
                    horizon=(answer.start, answer.stop),
                    evidence=blocks,
                    told=_blocks_of(_told(row, answer), block_tokens) or blocks,
                    answer=answer,
                )
            )
    return moments


def _blocks_of(spans: Sequence[tuple[int, int]], block_tokens: int) -> tuple[int, ...]:
    found = {block for start, stop in spans for block in range(start // block_tokens, (stop - 1) // block_tokens + 1)}
    return tuple(sorted(found))


def _told(row: Window, answer: Answer) -> list[tuple[int, int]]:
    """Where the value of an answer stands in the last statement that has it, as positions [start, stop)."""
    value_V = row.targets_T[answer.start : answer.stop]
    for start, stop in sorted(answer.evidence, reverse=True):
        for at in range(stop - len(value_V), start - 1, -1):
            if (row.tokens_T[at : at + len(value_V)] == value_V).all():
                return [(at, at + len(value_V))]
    return []
