"""A memory of plain text in which four characters are one token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.catalog import SearchHit
from megacontext.ports.focus import FocusRequest
from megacontext.tree.geometry import TreeGeometry

CHARS = 4
BLOCK = 8


class TextMemory:
    """Searches passages of 4 blocks with a stride of 3 for shared words, as the catalog does."""

    def __init__(self, text: str) -> None:
        self.all_text = text
        self.queries: list[str] = []

    @property
    def num_tokens(self) -> int:
        return -(-len(self.all_text) // CHARS)

    def tokens(self, start: int, stop: int):
        return np.arange(start, stop, dtype=np.uint32)

    def token_batch(self, spans):
        return [self.tokens(start, stop) for start, stop in spans]

    def text(self, start: int, stop: int) -> str:
        assert 0 <= start < stop <= self.num_tokens
        return self.all_text[start * CHARS : stop * CHARS]

    def texts(self, spans) -> list[str]:
        return [self.text(start, stop) for start, stop in spans]

    def search_hits(self, text: str, *, limit: int) -> list[SearchHit]:
        self.queries.append(text)
        words = set(text.casefold().split())
        hits = []
        for start in range(0, self.num_tokens, 3 * BLOCK):
            stop = min(start + 4 * BLOCK, self.num_tokens)
            passage = self.text(start, stop).casefold()
            score = sum(word.strip("?.,") in passage for word in words)
            if score:
                hits.append(SearchHit(token_start=start, token_stop=stop, score=score))
        return sorted(hits, key=lambda hit: (-hit.score, hit.token_start))[:limit]

    def token_of(self, text: str) -> int:
        return self.all_text.index(text) // CHARS


def request(memory, query_text: str = "", *, attention_mass=None, wc: WorkingContext | None = None) -> FocusRequest:
    wc = wc or working_context(memory)
    mass = None if attention_mass is None else np.asarray(attention_mass, dtype=np.float32)
    return FocusRequest(
        cut=wc.view(),
        memory=memory,
        query_text=query_text,
        query_token_ids=np.zeros(0, dtype=np.uint32),
        attention_mass=mass,
    )


def working_context(memory, *, budget_entries: int = 160) -> WorkingContext:
    config = WorkingContextConfig(budget_entries=budget_entries, sink_tokens=0, recent_tokens=8)
    return WorkingContext(TreeGeometry(BLOCK), num_tokens=memory.num_tokens, config=config)


@pytest.fixture(scope="session")
def plain() -> SimpleNamespace:
    return SimpleNamespace(TextMemory=TextMemory, request=request, working_context=working_context, BLOCK=BLOCK)
