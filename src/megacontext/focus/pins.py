"""Spans that stay raw: what the user pinned, the first tokens and the recent ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Spans"]


@dataclass(frozen=True)
class Spans:
    """A set of tokens as sorted, disjoint, non-empty ``(start, stop)`` spans."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]]) -> Spans:
        """The union of any spans; empty ones vanish, touching ones join."""
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(span for span in spans if span[0] < span[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return cls(tuple(merged))

    def plus(self, *spans: tuple[int, int]) -> Spans:
        return Spans.of((*self.spans, *spans))

    def minus(self, start: int, stop: int) -> Spans:
        pieces = [piece for low, high in self.spans for piece in ((low, min(high, start)), (max(low, stop), high))]
        return Spans.of(pieces)

    def whole_blocks(self, block_tokens: int, num_tokens: int) -> Spans:
        """Grown outwards to block borders, and cut at the end of the history."""
        return Spans.of(
            (start // block_tokens * block_tokens, min(-(-stop // block_tokens) * block_tokens, num_tokens))
            for start, stop in self.spans
        )

    def touch(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """For each range, whether it shares a token with the set."""
        if not self.spans:
            return np.zeros(len(starts), dtype=np.bool_)
        table = np.array([*self.spans, (np.iinfo(np.int64).max,) * 2], dtype=np.int64)
        following = np.searchsorted(table[:-1, 1], starts, side="right")
        touched: npt.NDArray[np.bool_] = table[following, 0] < stops
        return touched
