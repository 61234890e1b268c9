"""What a learned lens is told of a span beside its vectors. Training and sessions fill it in here, by one rule.

Shape legend: n spans, K tokens of a block, Q query tokens, U different ones of them, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError

__all__ = ["MAX_LEVEL", "MAX_LOG2", "feature_columns", "lexical_scores", "word_features"]

MAX_LEVEL, MAX_LOG2 = 8.0, 40.0  # scales of features: levels and widths or distances up to 2^40 tokens


def lexical_scores(blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """BM25 [n] of blocks as documents, over token ids (Robertson and Zaragoza 2009; k1 = 1.2, b = 0: equal lengths).

    A token's rarity is that among these blocks.
    """
    return word_features(blocks_nK, query_Q)[0]


def word_features(
    blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """``lexical_scores`` [n], and what each query token has in common with each block, [n, Q, 2]: the token itself, and
    it with the one before.

    The parts are BM25's terms, scaled so that what one block alone holds once counts 1. Pairs tell "Ann Lee" from "Ann
    Ray".
    """
    num_blocks, num_queries = len(blocks_nK), len(query_Q)
    if not num_blocks or not num_queries:
        return np.zeros(num_blocks), np.zeros((num_blocks, num_queries, 2), dtype=np.float32)
    ids_U, of_Q = np.unique(query_Q, return_inverse=True)
    place_V = np.full(int(max(ids_U[-1], blocks_nK.max())) + 1, -1, dtype=np.int16)
    place_V[ids_U] = np.arange(len(ids_U))
    rows, columns = np.nonzero(place_V[blocks_nK] >= 0)
    tokens = blocks_nK[rows, columns]
    terms_nU = _terms(rows, place_V[tokens], (num_blocks, len(ids_U)))
    most = np.log1p((num_blocks - 0.5) / 1.5)
    words_nQ2 = np.zeros((num_blocks, num_queries, 2), dtype=np.float32)
    words_nQ2[:, :, 0] = (terms_nU / most).astype(np.float32)[:, of_Q]
    if num_queries > 1:
        codes_U, of_pair = np.unique(_pair_codes(query_Q[:-1], query_Q[1:]), return_inverse=True)
        follows = columns > 0
        codes = _pair_codes(blocks_nK[rows[follows], columns[follows] - 1], tokens[follows])
        found = np.minimum(np.searchsorted(codes_U, codes), len(codes_U) - 1)
        is_pair = codes_U[found] == codes
        pairs_nU = _terms(rows[follows][is_pair], found[is_pair], (num_blocks, len(codes_U)))
        words_nQ2[:, 1:, 1] = (pairs_nU / most).astype(np.float32)[:, of_pair]
    return terms_nU.sum(1), words_nQ2


def _terms(
    rows: npt.NDArray[np.int64], places: npt.NDArray[np.integer], shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """BM25's terms [n, U] of what was found in which block."""
    num_blocks, num_different = shape
    counts_nU = np.bincount(rows * num_different + places, minlength=num_blocks * num_different).reshape(shape)
    num_with_U = np.count_nonzero(counts_nU, axis=0)
    rarity_U = np.log1p((num_blocks - num_with_U + 0.5) / (num_with_U + 0.5))
    terms_nU: npt.NDArray[np.float64] = counts_nU * 2.2 / (counts_nU + 1.2) * rarity_U
    return terms_nU


def _pair_codes(first_n: npt.NDArray[np.integer], second_n: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """One number for each pair of tokens."""
    codes_n: npt.NDArray[np.int64] = (first_n.astype(np.int64) << 32) | second_n.astype(np.int64)
    return codes_n


def feature_columns(
    names: Sequence[str],
    *,
    levels_n: npt.NDArray[np.integer],
    widths_n: npt.NDArray[np.integer],
    distances_n: npt.NDArray[np.integer],
    lexical_n: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float32]:
    """Features [n, F] in the order of ``names``; zero where nothing is known.

    distances_n: tokens from the end of each span to the end of the query; lexical_n: scores of any scale, >= 0.
    Raises BaseModelError for a name that this version cannot fill in.
    """
    zeros_n = np.zeros(len(levels_n))
    best = 0.0 if lexical_n is None else float(lexical_n.max(initial=0.0))
    columns: Mapping[str, npt.NDArray[np.floating]] = {
        "level": levels_n / MAX_LEVEL,
        "log2_width": np.log2(widths_n) / MAX_LOG2,
        "log2_distance": np.log2(np.maximum(1, distances_n)) / MAX_LOG2,
        "lexical": zeros_n if lexical_n is None or best <= 0 else lexical_n / best,
        "residency": zeros_n,  # no label knows of it yet
    }
    for name in names:
        if name not in columns:
            raise BaseModelError(
                f"the base's lens asks for the feature {name!r}, which is none of {', '.join(columns)}; "
                "use a newer MegaContext, or lens 'auto'"
            )
    return np.stack([columns[name] for name in names], axis=1).astype(np.float32)
