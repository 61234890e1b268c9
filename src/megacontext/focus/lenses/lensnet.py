"""``lensnet``: what the base's own learned lens expects opening to save, in nats.

Every block of the last ``num_scanned`` and every block that the words of the query find is scored by its stored gist;
the best of them a second time, with the words in common; what stands in the window as a gist by the state that the
model gave it there. The best are nominated. The scan is bounded, so that a refocus costs the same however long the
history is; beyond it the words of the query lead.

Shape legend: n blocks, K tokens of a block, r vectors of a gist, Q query tokens, F features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.focus.lenses.features import feature_columns, word_features
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility
from megacontext.ports.focus import FocusRequest, FocusScores, LearnedUtilities, Nomination
from megacontext.tree.runs import runs_of
from megacontext.values import number, whole_number

__all__ = ["LensNetLens"]


class LensNetLens:
    """The learned lens of a base that has one, over a memory whose gists that base made.

    Arguments: num_places: blocks nominated; num_scanned: blocks at the end of the history that are scored by their
    gists (32,768 blocks of 32 are a million tokens); num_shortlisted: those of them whose words are read; num_passages:
    search hits whose blocks are read wherever they stand; recency: nats that the recent tail is worth.
    """

    name = "lensnet"
    needs_attention = False
    needs_learned = True

    def __init__(
        self,
        *,
        num_places: int = 12,
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
        nats_n = _utilities(request, learned, blocks_n) * (block_tokens - cut.gist_width)
        entry_n = np.searchsorted(cut.starts, blocks_n * block_tokens, side="right") - 1
        is_entry_n = cut.levels[entry_n] <= 1  # a block of its own in the window, raw or collapsed
        np.add.at(utility, entry_n[is_entry_n], nats_n[is_entry_n])
        below = np.flatnonzero(~is_entry_n)
        best = below[np.argsort(-nats_n[below], kind="stable")[: self.num_places]]
        return FocusScores(
            utility=utility,
            nominations=tuple(
                Nomination(start=int(block) * block_tokens, stop=int(block + 1) * block_tokens, utility=float(nats))
                for block, nats in zip(blocks_n[best], nats_n[best], strict=True)
            ),
        )

    def _shortlist(self, request: FocusRequest, learned: LearnedUtilities) -> npt.NDArray[np.int64]:
        """Blocks worth a second look, ascending: the best of the scan, those of search hits, those in the window."""
        cut, block_tokens = request.cut, request.cut.block_tokens
        num_blocks = int(cut.stops[-1]) // block_tokens
        first = max(0, num_blocks - self.num_scanned)
        scanned_n = np.arange(first, num_blocks)
        if len(scanned_n) > self.num_shortlisted:
            nats_n = learned.of_gists(
                request.memory.gists(1, first, num_blocks), _features(request, learned, scanned_n)
            )
            scanned_n = scanned_n[np.argpartition(-nats_n, self.num_shortlisted)[: self.num_shortlisted]]
        found = [scanned_n, cut.starts[(cut.levels <= 1)] // block_tokens]
        if self.num_passages and request.query_text.strip():
            for hit in request.memory.search_hits(request.query_text, limit=self.num_passages):
                found.append(np.arange(hit.token_start // block_tokens, -(-hit.token_stop // block_tokens)))
        blocks_n = np.unique(np.concatenate(found))
        return blocks_n[blocks_n < num_blocks]


def _utilities(
    request: FocusRequest, learned: LearnedUtilities, blocks_n: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Nats [n] per entry of budget of opening whole blocks, given ascending."""
    cut, block_tokens = request.cut, request.cut.block_tokens
    runs = runs_of(blocks_n)
    tokens = [request.memory.tokens(first * block_tokens, last * block_tokens) for first, last in runs]
    tokens_nK = np.concatenate(tokens).reshape(-1, block_tokens)
    lexical_n, words_nQ2 = word_features(tokens_nK, learned.query_token_ids)
    features_nF = _features(request, learned, blocks_n, lexical_n)
    vectors_nrD = np.concatenate([request.memory.gists(1, first, last) for first, last in runs])
    nats_n = learned.of_gists(vectors_nrD, features_nF, words_nQ2).astype(np.float64)
    entry_n = np.searchsorted(cut.starts, blocks_n * block_tokens, side="right") - 1
    shown = np.flatnonzero(cut.levels[entry_n] == 1)
    if len(shown):
        nats_n[shown] = learned.of_entries(entry_n[shown], features_nF[shown], words_nQ2[shown])
    return nats_n


def _features(
    request: FocusRequest,
    learned: LearnedUtilities,
    blocks_n: npt.NDArray[np.int64],
    lexical_n: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float32]:
    block_tokens = request.cut.block_tokens
    end = int(request.cut.stops[-1]) + learned.num_scratch
    return feature_columns(
        learned.features,
        levels_n=np.ones(len(blocks_n), dtype=np.int64),
        widths_n=np.full(len(blocks_n), block_tokens),
        distances_n=end - (blocks_n + 1) * block_tokens,
        lexical_n=lexical_n,
    )
