"""What is said twice: near-duplicates within a collection, and held-out text that stands in the training text.

Broder, "On the resemblance and containment of documents" (1997): a document is the set of its runs of words, its
shingles. Pairs are found by MinHash with locality-sensitive hashing and confirmed on the shingles themselves, so that
a chance collision removes nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import UsageError
from megacontext.training.corpus import Document

__all__ = ["LEAST_JACCARD", "Twin", "WordRuns", "digest", "refuse_without_packages", "share_within", "twins"]

LEAST_JACCARD = 0.8
RUN_WORDS = 5
BANDS, HASHES_PER_BAND = 25, 5  # a pair at the limit is missed once in 20,000 times
SIGNED_AT_ONCE = 50_000
MIXER = np.uint64(0x9E3779B97F4A7C15)

_WORD = re.compile(r"\w+|[^\w\s]")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Twin:
    """A document that repeats an earlier one: their places in the collection, and how much they share."""

    repeated: int
    of: int
    jaccard: float


def digest(text: str) -> bytes:
    """Equal for texts that differ in white space alone."""
    return hashlib.blake2b(_SPACE.sub(" ", text).strip().encode(), digest_size=16).digest()


class _Hashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value


class WordRuns:
    """Hashes of runs of words; words are hashed once for a whole collection."""

    def __init__(self) -> None:
        self.hashes = _Hashes()

    def every(self, text: str, *, run_words: int) -> npt.NDArray[np.uint64]:
        """All runs of a text in order, [R] uint64; none if it has fewer words than a run."""
        words = _WORD.findall(text)
        if len(words) < run_words:
            return np.empty(0, np.uint64)
        words_N = np.array(list(map(self.hashes.__getitem__, words)), np.uint64)
        runs_R = np.zeros(len(words) - run_words + 1, np.uint64)
        for offset in range(run_words):
            runs_R = (runs_R ^ words_N[offset : offset + len(runs_R)]) * MIXER
            runs_R ^= runs_R >> np.uint64(29)
        return runs_R

    def of(self, text: str, *, run_words: int = RUN_WORDS) -> npt.NDArray[np.uint64]:
        """The different runs of a text, sorted."""
        return np.unique(self.every(text, run_words=run_words))


def refuse_without_packages() -> None:
    """Raise UsageError where what `twins` is made with is not installed: before text is read, not after."""
    if importlib.util.find_spec("datasketch") is None:
        raise UsageError(
            "cleaning text needs the package datasketch, which is not installed: `pip install 'megacontext[training]'`"
        )


def twins(documents: Sequence[Document], runs: WordRuns) -> list[Twin]:
    """Documents that share at least `LEAST_JACCARD` of their shingles with one that stays; the first of them stays."""
    from datasketch import MinHash, MinHashLSH

    num_hashes = BANDS * HASHES_PER_BAND
    index = MinHashLSH(num_perm=num_hashes, params=(BANDS, HASHES_PER_BAND))
    kept: dict[int, npt.NDArray[np.uint64]] = {}
    found = []
    for place, document in enumerate(documents):
        runs_R = runs.of(document.text)
        if not len(runs_R):
            continue
        signature = MinHash(num_perm=num_hashes, hashfunc=int)
        short_R = runs_R >> np.uint64(32)
        for start in range(0, len(short_R), SIGNED_AT_ONCE):
            signature.update_batch(short_R[start : start + SIGNED_AT_ONCE].tolist())
        candidates = sorted(int(other) for other in index.query(signature))
        likeness = {other: jaccard(runs_R, kept[other]) for other in candidates}
        best = max(candidates, key=lambda other: likeness[other], default=None)
        if best is not None and likeness[best] >= LEAST_JACCARD:
            found.append(Twin(place, best, likeness[best]))
            continue
        index.insert(place, signature)
        kept[place] = runs_R
    return found


def jaccard(one_R: npt.NDArray[np.uint64], other_R: npt.NDArray[np.uint64]) -> float:
    """Shared runs among all runs of two sorted sets."""
    num_shared = len(np.intersect1d(one_R, other_R, assume_unique=True))
    return num_shared / max(1, len(one_R) + len(other_R) - num_shared)


def share_within(
    documents: Iterable[Document], others: Iterable[Document], runs: WordRuns, *, run_words: int = 13
) -> list[float]:
    """For each document, the share of its runs that stand anywhere in the others.

    Thirteen words is the length by which GPT-3 measured contamination (Brown et al. 2020, appendix C).
    """
    sets = [runs.of(document.text, run_words=run_words) for document in documents]
    asked_R = np.unique(np.concatenate([*sets, np.empty(0, np.uint64)]))
    is_there_R = np.zeros(len(asked_R), np.bool_)
    for other in others if len(asked_R) else ():
        seen_R = runs.every(other.text, run_words=run_words)
        places_R = np.minimum(np.searchsorted(asked_R, seen_R), len(asked_R) - 1)
        is_there_R[places_R[asked_R[places_R] == seen_R]] = True
    return [float(is_there_R[np.searchsorted(asked_R, own_R)].mean()) if len(own_R) else 0.0 for own_R in sets]
