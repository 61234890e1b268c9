"""Texts and cuts small enough to follow by eye."""

from __future__ import annotations

import numpy as np

from megacontext.evaluation.focus_trace import FocusStep, FocusTrace
from megacontext.evaluation.library import Text
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.text import Encoded
from megacontext.tree.geometry import TreeGeometry

BOOK = Text(
    name="books/one.txt",
    kind="book",
    title="One, Nobody",
    text="The sun rose over the hill. “Come,” said Mr. Gray. They went down to the river. Nobody spoke!\n\n" * 40,
)
CODE = Text(
    name="code/one.py",
    kind="code",
    title="one.py",
    text="import os\n\n\ndef walk(path):\n    for name in os.listdir(path):\n        print(name)\n\n\n" * 40,
)


class CharCodec:
    """One token per character, its code point."""

    vocab_size = 1 << 20
    fingerprint = "characters"

    def encode(self, text: str) -> Encoded:
        token_ids = np.array([ord(char) for char in text], dtype=np.uint32)
        return Encoded(token_ids=token_ids, char_starts=np.arange(len(text), dtype=np.int64))

    def encode_batch(self, texts: list[str]) -> list[Encoded]:
        return [self.encode(text) for text in texts]

    def decode(self, token_ids: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> str:
        return "".join(chr(token_id) for token_id in token_ids)


def small_trace(num_steps: int = 3, num_tokens: int = 40_000) -> FocusTrace:
    """Steps that each open one place of a history, answered right and wrong by turns."""
    steps = []
    for number in range(num_steps):
        wc = WorkingContext(
            TreeGeometry(32), num_tokens=num_tokens, config=WorkingContextConfig(budget_entries=512, recent_tokens=64)
        )
        place = 5_000 * (number + 1)
        wc.reveal(place, place + 20)
        steps.append(
            FocusStep.of(f"What is the code for <{number}>?", wc, evidence=(place, place + 20), correct=number % 2 == 0)
        )
    sources = [(0, "Dracula, Bram Stoker", "book"), (20_000, "a.py", "code"), (25_000, "b.py", "code")]
    return FocusTrace(steps=steps, sources=sources, budget_entries=512)
