"""How text becomes the words of the full-text index, for passages and for questions alike.

Our own, rather than a tokenizer of SQLite, for three reasons: identifiers are found whole and by their parts
(``max_retries``, ``max``, ``retries``; ``HTTPServer``), scripts without spaces are found at all (by pairs of
characters), and the words of a passage are known when it is written, so that damage of the index can be found later.
"""

from __future__ import annotations

import re
from functools import lru_cache

from megacontext.folding import UNSPACED, fold

__all__ = ["words_of"]

_CACHED_RUNS = 1 << 15

# runs are cut at 256 characters: SQLite's limit is far above, and nobody asks for a longer word
_RUN = re.compile(r"\w{1,256}")
_PLAIN_RUN = re.compile(r"[a-z0-9]{1,256}")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_COMPOUND = re.compile(r"_|[a-z][0-9]*[A-Z]|[A-Z][A-Z][a-z]")


def words_of(text: str) -> list[str]:
    """The index words of a text, in order, case and accents folded.

    >>> words_of("Set MAX_retries=3 in HTTPServer, señor!")
    ['set', 'max_retries', 'max', 'retries', '3', 'in', 'httpserver', 'http', 'server', 'senor']
    """
    if text.isascii() and not _COMPOUND.search(text):
        return _PLAIN_RUN.findall(text.lower())  # plain prose, several times faster
    return " ".join(map(_expanded, _RUN.findall(text))).split()


@lru_cache(maxsize=_CACHED_RUNS)
def _expanded(run: str) -> str:
    """The words of one run of word characters, joined by spaces: most runs are one word, seen many times before."""
    if not run.isascii():
        return " ".join(_unicode_words(run))
    whole = run.lower()
    parts = [part.lower() for part in _PART.findall(run)] if _COMPOUND.search(run) else [whole]
    return " ".join(parts if parts in ([], [whole]) else [whole, *parts])


def _unicode_words(run: str) -> list[str]:
    words: list[str] = []
    for word in _RUN.findall(fold(run)):
        if UNSPACED.search(word) and len(word) > 1:
            words.extend(word[i : i + 2] for i in range(len(word) - 1))
        elif word.strip("_"):
            words.append(word)
    return words
