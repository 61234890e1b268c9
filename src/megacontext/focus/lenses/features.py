"""What a learned lens is told of a span beside its vectors. Training and sessions fill it in here, by one rule.

Shape legend: n spans, K tokens of a block, Q query tokens, U different ones of them, P different pairs, C columns of
``WordsInCommon``, m of what is found, F features, 2 lengths of ``LAST_TOKENS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError
from megacontext.ports.words import WordsInCommon

__all__ = [
    "COMPARED_FEATURES",
    "LAST_TOKENS",
    "MAX_LEVEL",
    "MAX_LOG2",
    "MAX_WORDS",
    "TOKENS_BEFORE",
    "TOKENS_CONTINUED",
    "UNKNOWN",
    "InCommon",
    "blocks_with_before",
    "feature_columns",
    "lexical_scores",
    "word_features",
]

MAX_LEVEL, MAX_LOG2 = 8.0, 40.0  # scales of features: levels and widths or distances up to 2^40 tokens
TOKENS_BEFORE = 16  # that a block is read with: what it goes on with may have begun in the block before
TOKENS_CONTINUED = 4  # of the query's last ones that are looked for right before a token of a block
LAST_TOKENS = (8, 32)  # of the query, whose words are compared apart: what comes next is often what was just begun
MAX_WORDS = 4.0  # a scale, too: of rare words that a span has in common with the last tokens; more are above 1
UNKNOWN = -1  # a token that nobody has read, or that is not there

COMPARED_FEATURES = ("lexical", "continues", *(f"lexical_{length}" for length in LAST_TOKENS))
"""Features that are known where words were compared."""


class InCommon(NamedTuple):
    """What blocks have in common with a query.

    lexical_n: BM25; words: by query token; continues_n: how many of the query's last tokens stand right before some
    token of the block, at most ``TOKENS_CONTINUED``: it may go on there; last_n2: BM25 of the last ``LAST_TOKENS`` of
    the query, a word that one block alone holds once counting 1.
    """

    lexical_n: npt.NDArray[np.float64]
    words: WordsInCommon
    continues_n: npt.NDArray[np.float64]
    last_n2: npt.NDArray[np.float64]

    def columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """The features [n] that say of a span what it has in common with the query, by name."""
        best = float(self.lexical_n.max(initial=0.0))
        return {
            "lexical": self.lexical_n / best if best > 0 else np.zeros(len(self.lexical_n)),
            "continues": self.continues_n / TOKENS_CONTINUED,
            **{f"lexical_{length}": self.last_n2[:, place] / MAX_WORDS for place, length in enumerate(LAST_TOKENS)},
        }


def blocks_with_before(tokens_T: npt.NDArray[np.integer], *, block_tokens: int) -> npt.NDArray[np.int64]:
    """Blocks [n, before + K] of a text that begins with the tokens before its first block (``UNKNOWN`` where there are
    none), each with the tokens before it."""
    width = TOKENS_BEFORE + block_tokens
    if len(tokens_T) < width:
        return np.zeros((0, width), dtype=np.int64)
    return np.lib.stride_tricks.sliding_window_view(tokens_T.astype(np.int64), width)[::block_tokens]


def lexical_scores(blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """BM25 [n] of blocks as documents, over token ids (Robertson and Zaragoza 2009; k1 = 1.2, b = 0: equal lengths).

    A token's rarity is that among these blocks.
    """
    query = _Query.of(query_Q)
    return query.found_in(blocks_nK, num_before=0).lexical_n(query.of_Q)


def word_features(
    blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer], *, num_before: int = TOKENS_BEFORE
) -> InCommon:
    """What each of the blocks [n, ``num_before`` + K] has in common with the query.

    Words are scaled so that what one block alone holds once counts 1; pairs tell "Ann Lee" from "Ann Ray". Tokens
    before a block do not count as its own, though a pair may begin there; they are compared apart, because a record
    whose name ends one block has its value in the next.
    """
    num_blocks, query = len(blocks_nK), _Query.of(query_Q)
    found = query.found_in(blocks_nK, num_before=num_before)
    most = np.log1p((max(1, num_blocks) - 0.5) / 1.5)
    words = WordsInCommon(
        num_columns=found.num_columns,
        starts_n=np.searchsorted(found.rows_m, np.arange(num_blocks)),
        columns_m=found.columns_m,
        amounts_m=(found.terms_m / most).astype(np.float32),
        columns_4Q=found.columns_4Q,
    )
    last_n2 = np.stack([found.lexical_n(query.of_Q[-length:]) / most for length in LAST_TOKENS], axis=1)
    return InCommon(found.lexical_n(query.of_Q), words, _continues(blocks_nK, query_Q, num_before), last_n2)


class _Found(NamedTuple):
    """BM25's terms of what was found, by span (row, ascending) and column. Own tokens have the first columns, and the
    last is of no word."""

    num_spans: int
    num_columns: int
    rows_m: npt.NDArray[np.int64]
    columns_m: npt.NDArray[np.int64]
    terms_m: npt.NDArray[np.float64]
    columns_4Q: npt.NDArray[np.int64]  # noqa: N815 - shape suffix

    def lexical_n(self, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The sum [n] over some of the columns."""
        is_meant_C = np.zeros(self.num_columns, dtype=np.bool_)
        is_meant_C[columns] = True
        meant = np.flatnonzero(is_meant_C.take(self.columns_m))
        rows_m, terms_m = self.rows_m.take(meant), self.terms_m.take(meant)
        return np.bincount(rows_m, weights=terms_m, minlength=self.num_spans).astype(np.float64)


class _Query(NamedTuple):
    """The different tokens [U] and pairs [P] of a query, and which of them each of its places has; no pair ends at the
    first. A pair of tokens is written as one number, first * U + second, of their places among the different ones."""

    ids_U: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    pairs_P: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    of_Q: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    pair_of_Q: npt.NDArray[np.int64]  # noqa: N815 - shape suffix

    @classmethod
    def of(cls, query_Q: npt.NDArray[np.integer]) -> _Query:
        ids_U, of_Q = np.unique(query_Q.astype(np.int64), return_inverse=True)
        pairs_P, pair_of_Q = np.unique(of_Q[:-1] * len(ids_U) + of_Q[1:], return_inverse=True)
        return cls(ids_U, pairs_P, of_Q, pair_of_Q)

    def found_in(self, blocks_nK: npt.NDArray[np.integer], *, num_before: int) -> _Found:
        """What is found in blocks whose first ``num_before`` columns stand before them."""
        (num_blocks, width), num_different = blocks_nK.shape, len(self.ids_U)
        if not num_blocks or not num_different:
            nowhere = np.zeros(0, dtype=np.int64)
            return _counted(nowhere, num_blocks, self._columns(np.full(len(self.pairs_P), -1), num_different))
        place_V = np.full(int(max(self.ids_U[-1], blocks_nK.max())) + 2, -1)  # the last: for UNKNOWN
        place_V[self.ids_U] = np.arange(num_different)
        places_N = place_V.take(blocks_nK.reshape(-1))
        at_t = np.flatnonzero(places_N >= 0)
        rows_t = at_t // width
        lines_t = at_t - rows_t * width
        lefts_t = places_N.take(at_t - 1)
        ends, pairs = self._pairs_at(lefts_t, places_N.take(at_t), np.flatnonzero((lefts_t >= 0) & (lines_t > 0)))
        column_P, num_pairs = self._columns_of_pairs(pairs)
        num_words = num_different + num_pairs
        cells_t = rows_t * (2 * num_words + 1) + (lines_t < num_before) * num_words
        cells = np.concatenate([cells_t + places_N.take(at_t), cells_t.take(ends) + column_P.take(pairs)])
        return _counted(cells, num_blocks, self._columns(column_P, num_words))

    def _pairs_at(
        self, lefts_t: npt.NDArray[np.int64], rights_t: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where pairs of the query end, of the found tokens that may end one, and which they are."""
        if not len(self.pairs_P):
            return ends[:0], ends[:0]
        codes = lefts_t.take(ends) * len(self.ids_U) + rights_t.take(ends)
        pairs = np.minimum(np.searchsorted(self.pairs_P, codes), len(self.pairs_P) - 1)
        is_pair = self.pairs_P.take(pairs) == codes
        return ends[is_pair], pairs[is_pair]

    def _columns_of_pairs(self, pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        """The column [P] of each pair that is found, behind those of tokens; most are nowhere and have none (-1)."""
        is_found_P = np.zeros(len(self.pairs_P), dtype=np.bool_)
        is_found_P[pairs] = True
        num_found = int(is_found_P.sum())
        return np.where(is_found_P, len(self.ids_U) + is_found_P.cumsum() - 1, -1), num_found

    def _columns(self, column_P: npt.NDArray[np.int64], num_words: int) -> npt.NDArray[np.int64]:
        """The column [4, Q] of each place's token and pair, and of both before a block; the last for none."""
        columns_4Q = np.full((4, len(self.of_Q)), 2 * num_words)
        columns_4Q[0], columns_4Q[2] = self.of_Q, num_words + self.of_Q
        column_Q = column_P.take(self.pair_of_Q)
        columns_4Q[1, 1:] = np.where(column_Q >= 0, column_Q, 2 * num_words)
        columns_4Q[3, 1:] = np.where(column_Q >= 0, num_words + column_Q, 2 * num_words)
        return columns_4Q


def _counted(cells: npt.NDArray[np.int64], num_blocks: int, columns_4Q: npt.NDArray[np.int64]) -> _Found:
    """BM25's terms of cells, ``row * C + column``, each as often as it was found."""
    num_columns = int(columns_4Q.max(initial=0)) + 1  # no pair ends at the first place
    counts_N = np.bincount(cells, minlength=num_blocks * num_columns)
    cells_m = np.flatnonzero(counts_N > 0)  # of bools: ten times as fast as of numbers, and four times as sorting
    counts_m = counts_N.take(cells_m)
    rows_m = cells_m // num_columns
    columns_m = cells_m - rows_m * num_columns
    num_with_C = np.bincount(columns_m, minlength=num_columns)
    rarity_C = np.log1p((num_blocks - num_with_C + 0.5) / (num_with_C + 0.5))
    terms_m = counts_m * 2.2 / (counts_m + 1.2) * rarity_C.take(columns_m)
    return _Found(num_blocks, num_columns, rows_m, columns_m, terms_m, columns_4Q)


def _continues(
    blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer], num_before: int
) -> npt.NDArray[np.float64]:
    """How many of the query's last tokens [n] stand right before a token of each block."""
    num_blocks, width = blocks_nK.shape
    longest_n = np.zeros(num_blocks)
    if not len(query_Q):
        return longest_n
    tokens_N = blocks_nK.reshape(-1)
    at_m = np.flatnonzero(tokens_N == query_Q[-1])  # few
    lines_m = at_m % width
    ends = (lines_m >= num_before - 1) & (lines_m < width - 1)
    at_m, lines_m = at_m[ends], lines_m[ends]
    for back, token in enumerate(query_Q[: -TOKENS_CONTINUED - 1 : -1]):
        goes_on = (lines_m >= back) & (tokens_N.take(at_m - back) == token)
        at_m, lines_m = at_m[goes_on], lines_m[goes_on]
        longest_n[at_m // width] = back + 1
    return longest_n


def feature_columns(
    names: Sequence[str],
    *,
    levels_n: npt.NDArray[np.integer],
    widths_n: npt.NDArray[np.integer],
    distances_n: npt.NDArray[np.integer],
    in_common: InCommon | None = None,
) -> npt.NDArray[np.float32]:
    """Features [n, F] in the order of ``names``; zero where nothing is known.

    distances_n: tokens from the end of each span to the end of the query; in_common: where words were compared.
    Raises BaseModelError for a name that this version cannot fill in.
    """
    zeros_n = np.zeros(len(levels_n))
    compared = dict.fromkeys(COMPARED_FEATURES, zeros_n) if in_common is None else in_common.columns()
    columns: Mapping[str, npt.NDArray[np.floating]] = {
        "level": levels_n / MAX_LEVEL,
        "log2_width": np.log2(widths_n) / MAX_LOG2,
        "log2_distance": np.log2(np.maximum(1, distances_n)) / MAX_LOG2,
        **compared,
        "residency": zeros_n,  # no label knows of it yet
    }
    for name in names:
        if name not in columns:
            raise BaseModelError(
                f"the base's lens asks for the feature {name!r}, which is none of {', '.join(columns)}; "
                "use a newer MegaContext, or lens 'auto'"
            )
    features_nF = np.zeros((len(levels_n), len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        features_nF[:, place] = columns[name]
    return features_nF
