"""What was in detail while an answer was produced, block by block, and how much it mattered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.focus.working_context import WorkingContext
from megacontext.memory.memory import Memory
from megacontext.memory.passages import passage_tokens
from megacontext.memory.reports import Quotation
from megacontext.runtime.events import ExplainedSpan
from megacontext.values import number, span, text

__all__ = ["DetailRecord"]

# a source with less than this part of the largest one in a span only happened to share its block
SLIVER = 4


@dataclass(frozen=True)
class _Block:
    start: int
    stop: int
    score: float
    reason: str


class DetailRecord:
    """The raw blocks of one answer over all its refocuses. It forgets when a new question comes."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}

    def clear(self) -> None:
        self._blocks.clear()

    def state(self) -> list[list[float | str]]:
        """All that was taken down, as JSON can hold it."""
        return [[block.start, block.stop, block.score, block.reason] for block in self._blocks.values()]

    def restore(self, state: list[list[Any]], *, num_tokens: int) -> None:
        """Take over what a ``state`` says of a history; InvalidValueError for what cannot be."""
        blocks = [
            _Block(
                *span(start, stop, limit=num_tokens, of="tokens of the history", is_empty_fine=False),
                number("the score of a block", score, least=0),
                text("the reason of a block", reason),
            )
            for start, stop, score, reason in state
        ]
        self._blocks = {block.start: block for block in blocks}

    def note(self, wc: WorkingContext, utility: npt.NDArray[np.float64], mass: npt.NDArray[np.float32] | None) -> None:
        """Take down the raw entries of a cut with what the lens and the model's attention gave to each."""
        if not wc.num_entries:
            return
        if len(utility) != wc.num_entries:  # of a cut before: the lens could not look since it changed
            utility = np.zeros(wc.num_entries)
        scores = _share(utility) if mass is None else _share(utility) + _share(mass)
        for row in np.flatnonzero(wc.levels == 0):
            start, stop, score = int(wc.starts[row]), int(wc.stops[row]), float(scores[row])
            known = self._blocks.get(start)
            if known is None or (known.stop, known.score) < (stop, score):
                self._blocks[start] = _Block(start, stop, score, _reason(wc, start, stop))

    def explain(self, memory: Memory, *, limit: int) -> list[ExplainedSpan]:
        """The ``limit`` blocks that mattered most, neighbours joined, with where they come from; best first.

        Blocks end anywhere: of a source as short as a passage all is quoted, once, that was in detail.
        """
        best = sorted(self._blocks.values(), key=lambda block: (-block.score, -block.start))[:limit]
        spans = _join(sorted(best, key=lambda block: block.start))
        spans.sort(key=lambda block: -block.score)
        explained: dict[tuple[int, int], ExplainedSpan] = {}
        for block in spans:
            for found in self._quotations(memory, block):
                explained.setdefault((found.token_start, found.token_stop), _explained(found, block))
        return list(explained.values())

    def _quotations(self, memory: Memory, block: _Block) -> list[Quotation]:
        """One per source of the block, the largest first; slivers of a neighbouring source are left out."""
        found = memory.provenance(block.start, block.stop, whole_tokens=passage_tokens(memory.info.block_tokens))
        sizes = [min(part.token_stop, block.stop) - max(part.token_start, block.start) for part in found]
        if not all(self._has(whole.token_start, whole.token_stop) for whole in found):
            parts = memory.provenance(block.start, block.stop)
            found = [
                whole if self._has(whole.token_start, whole.token_stop) else part
                for whole, part in zip(found, parts, strict=True)
            ]
        ranked = sorted(zip(sizes, found, strict=True), key=lambda each: -each[0])
        return [quotation for size, quotation in ranked if size > ranked[0][0] // SLIVER]

    def _has(self, start: int, stop: int) -> bool:
        """Whether all of a span was in detail."""
        for _, block in sorted(self._blocks.items()):
            if block.start <= start < block.stop:
                start = block.stop
        return start >= stop


def _share(values: npt.NDArray[np.float64] | npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Values against the largest of them."""
    shares = values.astype(np.float64)
    largest = float(shares.max(initial=0.0))
    return shares / largest if largest > 0 else shares


def _reason(wc: WorkingContext, start: int, stop: int) -> str:
    if any(low < stop and start < high for low, high in wc.pins):
        return "pinned"
    if stop > wc.num_tokens - wc.config.recent_tokens:
        return "recent"
    return "sink" if start < wc.config.sink_tokens else "focus"


def _join(blocks: list[_Block]) -> list[_Block]:
    """Neighbours of one reason as one span with the better score."""
    joined: list[_Block] = []
    for block in blocks:
        if joined and joined[-1].stop == block.start and joined[-1].reason == block.reason:
            last = joined.pop()
            block = _Block(last.start, block.stop, max(last.score, block.score), block.reason)
        joined.append(block)
    return joined


def _explained(found: Quotation, block: _Block) -> ExplainedSpan:
    return ExplainedSpan(
        uri=found.uri,
        title=found.title,
        role=found.role,
        token_start=found.token_start,
        token_stop=found.token_stop,
        byte_start=found.byte_start,
        byte_stop=found.byte_stop,
        line_start=found.line_start,
        line_stop=found.line_stop,
        quote=found.text,
        score=block.score,
        shown_because=block.reason,
        labels=dict(found.labels),
    )
