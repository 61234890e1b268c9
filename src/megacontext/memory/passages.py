"""How the history is cut into passages for the full-text index.

A passage is ``4 * K`` tokens, the next begins ``3 * K`` later, so that a fact shorter than K tokens lies whole in at
least one. Passages cross the borders of sources: their ends depend on positions alone, so that appending in any
chunking gives the same index. The last, incomplete one is not in the index; searches scan it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from megacontext.ports.catalog import Passage
from megacontext.ports.text import TextCodec

__all__ = [
    "PASSAGE_BLOCKS",
    "STRIDE_BLOCKS",
    "PassageCutter",
    "indexed_stop",
    "next_passage_start",
    "passage_tokens",
    "passages_from",
]

PASSAGE_BLOCKS = 4
STRIDE_BLOCKS = 3
_STEP_TOKENS = 65_536  # a source's tokens are copied so many at a time


def passage_tokens(block_tokens: int) -> int:
    """The length of a passage."""
    return PASSAGE_BLOCKS * block_tokens


def next_passage_start(indexed_tokens: int, block_tokens: int) -> int:
    """Where the first passage begins that is not in the index."""
    return max(0, indexed_tokens - (PASSAGE_BLOCKS - STRIDE_BLOCKS) * block_tokens)


def passages_from(
    token_ids: npt.NDArray[np.uint32], start: int, block_tokens: int, codec: TextCodec
) -> Iterator[Passage]:
    """Complete passages of ``token_ids``, whose first stands at ``start`` (where a passage begins)."""
    length, stride = PASSAGE_BLOCKS * block_tokens, STRIDE_BLOCKS * block_tokens
    for first in range(0, len(token_ids) - length + 1, stride):
        yield Passage(
            token_start=start + first,
            token_stop=start + first + length,
            text=codec.decode(token_ids[first : first + length]),
        )


class PassageCutter:
    """Cuts a history that arrives in pieces. start: where the next passage begins; pending: the tokens from there."""

    def __init__(self, start: int, pending: npt.NDArray[np.uint32], block_tokens: int, codec: TextCodec) -> None:
        self._start = start
        self._pending = pending
        self._block_tokens = block_tokens
        self._codec = codec

    def add(self, token_ids: npt.NDArray[np.uint32]) -> Iterator[Passage]:
        """Passages that these tokens complete; to be taken to the end before the next are added."""
        for first in range(0, len(token_ids), _STEP_TOKENS):
            self._pending = np.concatenate([self._pending, token_ids[first : first + _STEP_TOKENS]])
            passage = None
            for passage in passages_from(self._pending, self._start, self._block_tokens, self._codec):
                yield passage
            if passage is not None:
                done = passage.token_start + STRIDE_BLOCKS * self._block_tokens - self._start
                self._pending, self._start = self._pending[done:].copy(), self._start + done


def indexed_stop(num_tokens: int, block_tokens: int) -> int:
    """Where the last complete passage of a history ends; 0 if there is none."""
    length, stride = PASSAGE_BLOCKS * block_tokens, STRIDE_BLOCKS * block_tokens
    return 0 if num_tokens < length else (num_tokens - length) // stride * stride + length
