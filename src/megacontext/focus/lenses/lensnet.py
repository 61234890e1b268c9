"""``lensnet``: what the base's own learned lens expects opening to save, in nats.

Every block of the last ``num_scanned`` is scored by its stored gist; the best of them, what the words of the query
find, and what stands in the window are scored again, with the words in common. They compete, with nothing at all, for
being what the next tokens need; the probability times what is at stake, given the level of the gist that stands there
now, is the value. The best are nominated. The scan is bounded, so that a refocus costs the same however long the
history is; beyond it the words of the query lead.

Shape legend: n blocks, K tokens of a block, Q query tokens, F features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.focus.lenses.features import (
    TOKENS_BEFORE,
    UNKNOWN,
    InCommon,
    feature_columns,
    word_features,
)
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.focus import CutView, FocusRequest, FocusScores, LearnedEvidence, Nomination
from megacontext.tree.runs import runs_of
from megacontext.values import number, whole_number

__all__ = ["LensNetLens"]

LEAST_SHARE = 0.2  # of what the best block would save; less would only stand beside it and be mistaken for it


class LensNetLens:
    """The learned lens of a base that has one, over a memory whose gists that base made.

    Arguments: num_places: blocks nominated; num_scanned: blocks at the end of the history that are scored by their
    gists (32,768 blocks of 32 are a million tokens); num_shortlisted: those of them whose words are read; num_passages:
    search hits whose blocks, and the next, are read wherever they stand (0: none); recency: nats that the recent tail
    is worth. Few places, and none for what would save less than a fifth of the best: among lookalikes a small
    model takes the answer of another, and what they leave of the budget shows more of the recent tail.
    """

    name = "lensnet"
    needs_attention = False
    needs_learned = True

    def __init__(
        self,
        *,
        num_places: int = 4,
        num_scanned: int = 32_768,
        num_shortlisted: int = 256,
        num_passages: int = 8,
        recency: float = 0.25,
    ) -> None:
        self.num_places = whole_number("num_places", num_places, least=1)
        self.num_scanned = whole_number("num_scanned", num_scanned, least=1)
        self.num_shortlisted = whole_number("num_shortlisted", num_shortlisted, least=1)
        self.num_passages = whole_number("num_passages", num_passages)
        self.recency = number("recency", recency, least=0)
        self._by_words = LexicalLens(recency=recency)

    def score(self, request: FocusRequest) -> FocusScores:
        cut, learned = request.cut, request.learned
        if learned is None or not len(cut.levels):
            return self._by_words.score(request)
        block_tokens = cut.block_tokens
        utility = recency_utility(cut) * self.recency
        blocks_n = self._shortlist(request, learned)
        if not len(blocks_n):
            return FocusScores(utility=utility)
        nats_n = _nats(request, learned, blocks_n)
        nats_n[nats_n < LEAST_SHARE * nats_n.max()] = 0.0
        entry_n = _entries_of(cut, blocks_n)
        is_entry_n = cut.levels[entry_n] <= 1  # a block of its own in the window, raw or collapsed
        np.add.at(utility, entry_n[is_entry_n], nats_n[is_entry_n])
        below = np.flatnonzero(~is_entry_n)
        below = below[nats_n[below] > 0]
        best = below[np.argsort(-nats_n[below], kind="stable")[: self.num_places]]
        return FocusScores(
            utility=utility,
            nominations=tuple(
                Nomination(start=int(block) * block_tokens, stop=int(block + 1) * block_tokens, utility=float(nats))
                for block, nats in zip(blocks_n[best], nats_n[best], strict=True)
            ),
        )

    def _shortlist(self, request: FocusRequest, learned: LearnedEvidence) -> npt.NDArray[np.int64]:
        """Blocks worth a second look, ascending: the best of the scan, those of search hits, those in the window. What
        is pinned is open whatever is said of it, and the text that asks is no answer to itself."""
        cut, block_tokens = request.cut, request.cut.block_tokens
        num_blocks = int(cut.stops[-1]) // block_tokens
        first = max(0, num_blocks - self.num_scanned)
        scanned_n = np.arange(first, num_blocks)
        if len(scanned_n) > self.num_shortlisted:
            logits_n = learned.of_blocks(scanned_n, _features(request, learned, scanned_n))
            scanned_n = scanned_n[np.argpartition(-logits_n, self.num_shortlisted)[: self.num_shortlisted]]
        found = [scanned_n, cut.starts[(cut.levels <= 1)] // block_tokens]
        if self.num_passages and request.query_text.strip():
            for hit in request.memory.search_hits(request.query_text, limit=self.num_passages):
                found.append(np.arange(hit.token_start // block_tokens, 1 - (-hit.token_stop // block_tokens)))
        blocks_n = np.unique(np.concatenate(found))
        asking = max(0, len(learned.query_token_ids) - learned.num_scratch)  # tokens of the history that ask
        blocks_n = blocks_n[(blocks_n + 1) * block_tokens <= int(cut.stops[-1]) - asking]
        return blocks_n[~cut.pinned[_entries_of(cut, blocks_n)]]


def _entries_of(cut: CutView, blocks_n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The entry [n] that each block begins in."""
    return np.searchsorted(cut.starts, blocks_n * cut.block_tokens, side="right") - 1


def _nats(request: FocusRequest, learned: LearnedEvidence, blocks_n: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Nats [n] that opening blocks, given ascending, is expected to save. An open one: would save, were it as coarse as
    a long history makes it, or what was found would be closed again.

    Stored gists speak for all of them: the state of a gist in the window has read what stands open before it.
    """
    cut = request.cut
    in_common = word_features(_read(request, blocks_n), learned.query_token_ids)
    features_nF = _features(request, learned, blocks_n, in_common)
    logits_n = learned.of_blocks(blocks_n, features_nF, in_common.words).astype(np.float64)
    entry_n = _entries_of(cut, blocks_n)
    nothing, nats_L = learned.stakes
    levels_n = np.where(cut.levels[entry_n] == 0, len(nats_L), cut.levels[entry_n])
    highest = max(nothing, logits_n.max())
    shares_n = np.exp(logits_n - highest)
    shares_n /= shares_n.sum() + np.exp(nothing - highest)
    nats_n: npt.NDArray[np.float64] = shares_n * nats_L[np.minimum(levels_n, len(nats_L)) - 1]
    return nats_n


def _read(request: FocusRequest, blocks_n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Blocks, given ascending, each with the tokens before it."""
    block_tokens = request.cut.block_tokens
    runs = runs_of(blocks_n)
    texts = request.memory.token_batch(
        [(max(0, first * block_tokens - TOKENS_BEFORE), last * block_tokens) for first, last in runs]
    )
    unknown = np.full(TOKENS_BEFORE, UNKNOWN)
    padded = [unknown[min(first * block_tokens, TOKENS_BEFORE) :] for first, _ in runs]
    tokens_T = np.concatenate([part for pair in zip(padded, texts, strict=True) for part in pair]).astype(np.int64)
    num_before_n = TOKENS_BEFORE * np.repeat(np.arange(len(runs)), [last - first for first, last in runs])
    starts_n = block_tokens * np.arange(len(blocks_n)) + num_before_n
    blocks_nK: npt.NDArray[np.int64] = tokens_T[starts_n[:, None] + np.arange(TOKENS_BEFORE + block_tokens)]
    return blocks_nK


def _features(
    request: FocusRequest,
    learned: LearnedEvidence,
    blocks_n: npt.NDArray[np.int64],
    in_common: InCommon | None = None,
) -> npt.NDArray[np.float32]:
    block_tokens = request.cut.block_tokens
    end = int(request.cut.stops[-1]) + learned.num_scratch
    return feature_columns(
        learned.features,
        levels_n=np.ones(len(blocks_n), dtype=np.int64),
        widths_n=np.full(len(blocks_n), block_tokens),
        distances_n=end - (blocks_n + 1) * block_tokens,
        in_common=in_common,
    )
