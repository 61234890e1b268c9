"""A memory of plain text for lenses: four characters are one token, and passages are found by shared words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megacontext.ports.catalog import SearchHit

__all__ = ["BLOCK_TOKENS", "TextMemory"]

CHARS = 4
BLOCK_TOKENS = 8


class TextMemory:
    """What a lens may ask of a memory (``MemoryView``). queries: what was searched for, in order."""

    def __init__(self, text: str) -> None:
        self.all_text = text
        self.queries: list[str] = []

    @property
    def num_tokens(self) -> int:
        return -(-len(self.all_text) // CHARS)

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        return np.arange(start, stop, dtype=np.uint32)

    def gists(self, level: int, start: int, stop: int) -> npt.NDArray[np.float16]:
        """Zeros [n, 1, 4]: nothing is summarised here."""
        assert level >= 1
        return np.zeros((stop - start, 1, 4), dtype=np.float16)

    def token_batch(self, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.uint32]]:
        return [self.tokens(start, stop) for start, stop in spans]

    def text(self, start: int, stop: int) -> str:
        """Also the judge of what is asked: an empty span, or one beyond the history, is a lens's mistake."""
        assert 0 <= start < stop <= self.num_tokens, f"[{start}, {stop}) of {self.num_tokens} tokens"
        return self.all_text[start * CHARS : stop * CHARS]

    def texts(self, spans: Sequence[tuple[int, int]]) -> list[str]:
        return [self.text(start, stop) for start, stop in spans]

    def search_hits(self, text: str, *, limit: int) -> list[SearchHit]:
        """Passages of four blocks with a stride of three, by how many words they share."""
        self.queries.append(text)
        words = set(text.casefold().split())
        hits = []
        for start in range(0, self.num_tokens, 3 * BLOCK_TOKENS):
            stop = min(start + 4 * BLOCK_TOKENS, self.num_tokens)
            passage = self.text(start, stop).casefold()
            score = sum(word.strip("?.,") in passage for word in words)
            if score:
                hits.append(SearchHit(token_start=start, token_stop=stop, score=score))
        return sorted(hits, key=lambda hit: (-hit.score, hit.token_start))[:limit]

    def token_of(self, text: str) -> int:
        """The token in which a text begins."""
        return self.all_text.index(text) // CHARS
