"""What a learned lens is told of a span beside its vectors. Training and sessions fill it in here, by one rule.

Shape legend: n spans, K tokens of a block, P tokens before it, Q query tokens, U different ones of them, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError

__all__ = [
    "MAX_LEVEL",
    "MAX_LOG2",
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
UNKNOWN = -1  # a token that nobody has read, or that is not there


class InCommon(NamedTuple):
    """What blocks have in common with a query.

    lexical_n: BM25; words_nQ4: by query token, the token itself and it with the one before, in the block and then in
    what stands right before it; continues_n: how many of the query's last tokens stand right before some token of the
    block, at most ``TOKENS_CONTINUED``: it may go on there.
    """

    lexical_n: npt.NDArray[np.float64]
    words_nQ4: npt.NDArray[np.float32]  # noqa: N815 - shape suffix
    continues_n: npt.NDArray[np.float64]


def blocks_with_before(tokens_T: npt.NDArray[np.integer], *, block_tokens: int) -> npt.NDArray[np.int64]:
    """Blocks [n, P + K] of a text that begins with the P tokens before its first block (``UNKNOWN`` where there are
    none), each with the tokens before it."""
    num_tokens = len(tokens_T) - TOKENS_BEFORE
    windows = np.lib.stride_tricks.sliding_window_view(tokens_T.astype(np.int64), TOKENS_BEFORE + block_tokens)
    return windows[: num_tokens - block_tokens + 1 : block_tokens]


def lexical_scores(blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """BM25 [n] of blocks as documents, over token ids (Robertson and Zaragoza 2009; k1 = 1.2, b = 0: equal lengths).

    A token's rarity is that among these blocks.
    """
    if not len(blocks_nK) or not len(query_Q):
        return np.zeros(len(blocks_nK))
    scores_n: npt.NDArray[np.float64] = _Words.of(query_Q).found_in(blocks_nK, first=0).own_nU.sum(1)
    return scores_n


def word_features(
    blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer], *, num_before: int = TOKENS_BEFORE
) -> InCommon:
    """What each of the blocks [n, ``num_before`` + K] has in common with the query.

    Words are scaled so that what one block alone holds once counts 1; pairs tell "Ann Lee" from "Ann Ray". Tokens
    before a block do not count as its own, though a pair may begin there; they are compared apart, because a record
    whose name ends one block has its value in the next.
    """
    num_blocks, num_queries = len(blocks_nK), len(query_Q)
    if not num_blocks or not num_queries:
        words_nQ4 = np.zeros((num_blocks, num_queries, 4), dtype=np.float32)
        return InCommon(np.zeros(num_blocks), words_nQ4, np.zeros(num_blocks))
    words = _Words.of(query_Q)
    most = np.log1p((num_blocks - 0.5) / 1.5)
    found = words.found_in(blocks_nK, first=num_before)
    found_4nQ = np.zeros((4, num_blocks, num_queries), dtype=np.float32)  # so they are compared kind by kind
    for kind_nQ, terms_nU, places in (
        (found_4nQ[0], found.own_nU, words.of_Q),
        (found_4nQ[1, :, 1:], found.own_pairs_nU, words.of_pair),
        (found_4nQ[2], found.before_nU, words.of_Q),
        (found_4nQ[3, :, 1:], found.before_pairs_nU, words.of_pair),
    ):
        kind_nQ[:] = (terms_nU / most).astype(np.float32)[:, places]
    return InCommon(found.own_nU.sum(1), found_4nQ.transpose(1, 2, 0), _continues(blocks_nK, query_Q, num_before))


class _Found(NamedTuple):
    """BM25's terms [n, U] of tokens and of pairs that end in a block, and in what stands before it."""

    own_nU: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    own_pairs_nU: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    before_nU: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    before_pairs_nU: npt.NDArray[np.float64]  # noqa: N815 - shape suffix


class _Words(NamedTuple):
    """The different tokens and pairs of a query, and which of them stands at each of its places."""

    ids_U: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    of_Q: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    pairs_U: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    of_pair: npt.NDArray[np.int64]

    @classmethod
    def of(cls, query_Q: npt.NDArray[np.integer]) -> _Words:
        pairs = np.unique(_pair_codes(query_Q[:-1], query_Q[1:]), return_inverse=True)
        return cls(*np.unique(query_Q.astype(np.int64), return_inverse=True), *pairs)

    def found_in(self, blocks_nK: npt.NDArray[np.integer], *, first: int) -> _Found:
        """What is found in blocks that begin at column ``first``."""
        num_blocks, width = blocks_nK.shape
        place_V = np.full(int(max(self.ids_U[-1], blocks_nK.max())) + 2, -1, dtype=np.int16)  # the last: for UNKNOWN
        place_V[self.ids_U] = np.arange(len(self.ids_U))
        flat_N = blocks_nK.reshape(-1)
        places_N = place_V[flat_N]
        at = np.flatnonzero(places_N >= 0)
        tokens = _Ends(at // width, at % width >= first, places_N[at])
        shape, pairs_shape = (num_blocks, len(self.ids_U)), (num_blocks, len(self.pairs_U))
        if not len(self.pairs_U):
            nothing_nU = np.zeros(pairs_shape)
            return _Found(tokens.terms(shape, own=True), nothing_nU, tokens.terms(shape, own=False), nothing_nU)
        at = at[at % width > 0]
        codes = _pair_codes(flat_N[at - 1], flat_N[at])
        found = np.minimum(np.searchsorted(self.pairs_U, codes), len(self.pairs_U) - 1)
        at, found = (part[self.pairs_U[found] == codes] for part in (at, found))
        pairs = _Ends(at // width, at % width >= first, found)
        return _Found(
            tokens.terms(shape, own=True),
            pairs.terms(pairs_shape, own=True),
            tokens.terms(shape, own=False),
            pairs.terms(pairs_shape, own=False),
        )


class _Ends(NamedTuple):
    """Where words end: in which block, whether in its own columns, and which word it is."""

    rows: npt.NDArray[np.int64]
    is_own: npt.NDArray[np.bool_]
    words: npt.NDArray[np.integer]

    def terms(self, shape: tuple[int, int], *, own: bool) -> npt.NDArray[np.float64]:
        """BM25's terms of those in own columns, or of the others."""
        chosen = self.is_own == own
        return _terms(self.rows[chosen], self.words[chosen], shape)


def _continues(
    blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer], num_before: int
) -> npt.NDArray[np.float64]:
    """How many of the query's last tokens [n] stand right before a token of each block."""
    num_blocks, width = blocks_nK.shape
    first = max(0, num_before - 1)  # the end of what may go on with the block's first token
    goes_on_nE = np.ones((num_blocks, width - 1 - first), dtype=np.bool_)
    length_nE = np.zeros((num_blocks, width - 1 - first), dtype=np.int64)
    for back, token in enumerate(query_Q[: -TOKENS_CONTINUED - 1 : -1]):
        stands = blocks_nK[:, max(0, first - back) : width - 1 - back] == token
        if not stands.shape[1]:
            break  # blocks are shorter than what may go on
        goes_on_nE[:, -stands.shape[1] :] &= stands
        goes_on_nE[:, : -stands.shape[1]] = False
        length_nE += goes_on_nE
    longest_n: npt.NDArray[np.float64] = length_nE.max(axis=1, initial=0).astype(np.float64)
    return longest_n


def _terms(
    rows: npt.NDArray[np.int64], places: npt.NDArray[np.integer], shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """BM25's terms [n, U] of what was found in which block."""
    num_blocks, num_different = shape
    counts_N = np.bincount(rows * num_different + places, minlength=num_blocks * num_different)
    found_m = np.flatnonzero(counts_N)  # few: most blocks have none of the words
    num_with_U = np.bincount(found_m % num_different, minlength=num_different)
    rarity_U = np.log1p((num_blocks - num_with_U + 0.5) / (num_with_U + 0.5))
    terms_N = np.zeros(len(counts_N))
    counts_m = counts_N[found_m]
    terms_N[found_m] = counts_m * 2.2 / (counts_m + 1.2) * rarity_U[found_m % num_different]
    return terms_N.reshape(shape)


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
    in_common: InCommon | None = None,
) -> npt.NDArray[np.float32]:
    """Features [n, F] in the order of ``names``; zero where nothing is known.

    distances_n: tokens from the end of each span to the end of the query; in_common: where words were compared.
    Raises BaseModelError for a name that this version cannot fill in.
    """
    zeros_n = np.zeros(len(levels_n))
    best = 0.0 if in_common is None else float(in_common.lexical_n.max(initial=0.0))
    columns: Mapping[str, npt.NDArray[np.floating]] = {
        "level": levels_n / MAX_LEVEL,
        "log2_width": np.log2(widths_n) / MAX_LOG2,
        "log2_distance": np.log2(np.maximum(1, distances_n)) / MAX_LOG2,
        "lexical": zeros_n if in_common is None or best <= 0 else in_common.lexical_n / best,
        "continues": zeros_n if in_common is None else in_common.continues_n / TOKENS_CONTINUED,
        "residency": zeros_n,  # no label knows of it yet
    }
    for name in names:
        if name not in columns:
            raise BaseModelError(
                f"the base's lens asks for the feature {name!r}, which is none of {', '.join(columns)}; "
                "use a newer MegaContext, or lens 'auto'"
            )
    return np.stack([columns[name] for name in names], axis=1).astype(np.float32)
