"""Held-out text to go on with: how well a method predicts what really comes next.

The memory has read a book or module up to some page. It reads on for a while (the context), and then the next
tokens are scored without being added. All that a method may know of them lies in what was read before: on the last
page, or far back where the same people, places and identifiers were introduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.evaluation.library import Library
from megacontext.ports.text import TextCodec

__all__ = ["TARGET_TOKENS", "Continuation", "draw_continuations"]

TARGET_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """name: the text that goes on; kind: ``book`` or ``code``; context_ids: read before the cut; target_ids: scored
    after it; both uint32."""

    name: str
    kind: str
    context_ids: npt.NDArray[np.uint32]
    target_ids: npt.NDArray[np.uint32]


def draw_continuations(
    random: Random,
    codec: TextCodec,
    library: Library,
    count: int,
    *,
    context_tokens: int,
    target_tokens: int = TARGET_TOKENS,
) -> list[Continuation]:
    """Stretches of the held-back ends, as many of books as of code where there are enough, none overlapping another.

    Raises InvalidValueError if the library holds back too little.
    """
    length = context_tokens + target_tokens
    pieces: dict[str, list[Continuation]] = {"book": [], "code": []}
    for text, rest in zip(library.texts, library.held_back, strict=True):
        token_ids = codec.encode(rest[: 12 * length * count]).token_ids
        for start in range(0, len(token_ids) - length + 1, length):
            cut = start + context_tokens
            pieces[text.kind].append(
                Continuation(
                    name=text.title,
                    kind=text.kind,
                    context_ids=token_ids[start:cut],
                    target_ids=token_ids[cut : start + length],
                )
            )
    if sum(map(len, pieces.values())) < count:
        raise InvalidValueError(
            f"{count} continuations of {length} tokens are not held back here; ask for at most "
            f"{sum(map(len, pieces.values()))}"
        )
    return _mixed(random, pieces, count)


def _mixed(random: Random, pieces: dict[str, list[Continuation]], count: int) -> list[Continuation]:
    for some in pieces.values():
        random.shuffle(some)
    num_code = max(min(count // 2, len(pieces["code"])), count - len(pieces["book"]))
    chosen: Sequence[Continuation] = [*pieces["code"][:num_code], *pieces["book"][: count - num_code]]
    return random.sample(chosen, len(chosen))
