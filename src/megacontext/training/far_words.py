"""Words that were seen before, but not lately: where far context can pay on real text.

Shape legend: T tokens of a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["closed_words", "far_tokens", "word_tokens"]

FAR_TOKENS = 512
WORD = re.compile(rb"[A-Za-z_]{5,}")


def word_tokens(pieces: Sequence[bytes], *, first: int) -> dict[str, list[int]]:
    """Positions >= `first` inside words of 5+ letters, by where the word was seen before: `far` (not within the last
    512 tokens), `recent`, or `new` (nowhere in the window)."""
    last_seen: dict[bytes, int] = {}
    found: dict[str, list[int]] = {"far": [], "recent": [], "new": []}
    for word, position, stop in _words(pieces):
        seen = last_seen.get(word)
        if position >= first:
            kind = "new" if seen is None else "far" if position - seen > FAR_TOKENS else "recent"
            found[kind].extend(range(position, stop))
        last_seen[word] = position
    return found


def far_tokens(pieces: Sequence[bytes], *, first: int) -> list[int]:
    """Positions >= `first` inside words of 5+ letters that were seen before, but not within the last 512 tokens."""
    return word_tokens(pieces, first=first)["far"]


def closed_words(pieces: Sequence[bytes], is_open_T: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which open tokens [T] belong to words of 5+ letters that stand in closed blocks before them and in none open."""
    found_T = np.zeros(len(pieces), dtype=np.bool_)
    closed: set[bytes] = set()
    shown: set[bytes] = set()
    for word, position, stop in _words(pieces):
        if not is_open_T[position:stop].all():
            closed.add(word)
            continue
        found_T[position:stop] = word in closed and word not in shown
        shown.add(word)
    return found_T


def _words(pieces: Sequence[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Words of 5+ letters in order, each with its tokens [position, stop)."""
    edges = np.cumsum([0, *(len(piece) for piece in pieces)])
    for match in WORD.finditer(b"".join(pieces)):
        position = int(np.searchsorted(edges, match.start(), side="right")) - 1
        stop = int(np.searchsorted(edges, match.end(), side="left"))
        yield match.group(), position, stop
