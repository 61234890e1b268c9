"""``sentences``: the most telling stretches of a span's sentences, token for token. No training, no model.

What is telling shows in the tokens themselves. Vocabularies are learned from the most frequent pair on, so a token's id
is its rank, and by Zipf's law the logarithm of its rank is close to its surprise (Zipf 1949). Rare words are cut into
several tokens, so one that goes on with a word counts, too, and names count more: they are what people ask for. Digits
count little: a number away from its sentence answers the wrong question.

A gist is the stretches with the largest sum that fill its width: they begin with a word, best with a sentence, and
never run over a sentence's end. Upper levels choose among their children's stretches.

A block is read by itself and weights are rounded to ``WEIGHT_STEP``, so that no sum depends on the order of additions:
appends in any pieces give the same gists. Where a base reads text, each token is marked as the first of its stretch or
not; any other base gets the tokens' embeddings.

Shape legend: n nodes, K block_tokens, r gist_width, C candidates of a node (K tokens, or K * r of its children's), D
embedding width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.gisters.source import whole_blocks
from megacontext.ports.base import BaseSource
from megacontext.ports.gister import GistBatch
from megacontext.ports.text import RowMark, TextRows

__all__ = ["SentencesGister", "marked_vectors"]

WEIGHT_STEP = 1 / 64
# Against the weight of the rarest token, 1. Ids up to NUM_COMMON are single bytes and control tokens.
NUM_COMMON = 256
LEAST_WEIGHT = 0.125
GOES_ON_WEIGHT = 0.5
DIGIT_WEIGHT = 0.25
NAME_BONUS = 0.5
SENTENCE_BONUS = 0.5  # of a stretch that begins with its sentence
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s*$|\n")
_NAME = re.compile(r"\s*[^\W\d_]")


@dataclass(frozen=True)
class _Traits:
    """Of each candidate [n, C]: weight; whether a stretch may begin with it, and whether a sentence does; where the
    stretch that it is in ends at the latest (exclusive)."""

    weights_nC: npt.NDArray[np.float64]  # noqa: N815 - shape suffix
    is_word_nC: npt.NDArray[np.bool_]  # noqa: N815 - shape suffix
    is_first_nC: npt.NDArray[np.bool_]  # noqa: N815 - shape suffix

    @property
    def stops_nC(self) -> npt.NDArray[np.int64]:  # noqa: N802 - shape suffix
        num_candidates = self.is_first_nC.shape[1]
        places = np.where(self.is_first_nC, np.arange(num_candidates), num_candidates)
        ahead = np.concatenate([places[:, 1:], np.full((len(places), 1), num_candidates)], axis=1)
        return np.minimum.accumulate(ahead[:, ::-1], axis=1)[:, ::-1]


class SentencesGister:
    """Keeps r tokens of a span that read as words. Reads the tokenizer alone."""

    name = "sentences"
    version = "1"
    spread = 0.0
    context_tokens = 0

    def __init__(self, source: BaseSource, *, block_tokens: int, gist_width: int) -> None:
        self.block_tokens = block_tokens
        self.window_tokens = block_tokens
        self.gist_width = gist_width
        self.dim = source.info.dim
        self._source = source
        self._known: dict[int, tuple[float, bool, bool]] = {}

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        """Level-1 gists of whole blocks."""
        ids_nK = whole_blocks(token_ids, start=start, num_context=num_context, block_tokens=self.block_tokens)
        traits = self._traits(ids_nK)
        chosen_nr = _best_stretches(traits, self.gist_width)
        return GistBatch(
            vectors=marked_vectors(self._source, np.take_along_axis(ids_nK, chosen_nr, axis=1), _begins(chosen_nr)),
            offsets=chosen_nr.astype(np.float32),
            weights=np.take_along_axis(traits.weights_nC, chosen_nr, axis=1).astype(np.float32),
        )

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        """Gists of ``level`` from the stretches of K x n children."""
        num_candidates = self.block_tokens * self.gist_width
        offsets_nKr = children.offsets.reshape(-1, self.block_tokens, self.gist_width).astype(np.float64)
        begins_nC = _begins(offsets_nKr).reshape(-1, num_candidates)
        weights_nC = children.weights.reshape(-1, num_candidates)
        traits = _Traits(weights_nC.astype(np.float64), begins_nC, begins_nC)
        chosen_nr = _best_stretches(traits, self.gist_width)
        child_starts = np.arange(self.block_tokens, dtype=np.float64) * self.block_tokens ** (level - 1)
        offsets_nC = (offsets_nKr + child_starts[:, None]).reshape(-1, num_candidates)
        begins_nr = _begins(chosen_nr) | np.take_along_axis(begins_nC, chosen_nr, axis=1)
        vectors_nrD = np.take_along_axis(
            children.vectors.reshape(-1, num_candidates, self.dim), chosen_nr[:, :, None], axis=1
        )
        return GistBatch(
            vectors=_marked_again(self._source, vectors_nrD, begins_nr),
            offsets=np.take_along_axis(offsets_nC, chosen_nr, axis=1).astype(np.float32),
            weights=np.take_along_axis(weights_nC, chosen_nr, axis=1),
        )

    def _traits(self, ids_nK: npt.NDArray[np.uint32]) -> _Traits:
        distinct, where = np.unique(ids_nK, return_inverse=True)
        known = np.array([self._traits_of(token_id) for token_id in distinct.tolist()], dtype=np.float64)
        weights_nK, is_word_nK, is_end_nK = known.reshape(-1, 3)[where.reshape(ids_nK.shape)].transpose(2, 0, 1)
        is_first_nK = np.ones(ids_nK.shape, dtype=np.bool_)
        is_first_nK[:, 1:] = is_end_nK[:, :-1] > 0
        return _Traits(weights_nK, (is_word_nK > 0) | is_first_nK, is_first_nK)

    def _traits_of(self, token_id: int) -> tuple[float, bool, bool]:
        """Weight of a token, whether a word begins with it, and whether it ends a sentence."""
        if token_id not in self._known:
            text = self._source.codec.decode(np.array([token_id], dtype=np.uint32))
            self._known[token_id] = (
                _weight(text, token_id, self._source.info.vocab_size),
                text[:1].isspace(),
                _SENTENCE_END.search(text) is not None,
            )
        return self._known[token_id]


def marked_vectors(
    source: BaseSource, ids_nr: npt.NDArray[np.integer[Any]], begins_nr: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float16]:
    """Vectors [n, r, D] of tokens, marked as first of a stretch or not where the base reads text."""
    rows = source.embeddings
    if isinstance(rows, TextRows):
        return rows.marked(ids_nr, np.where(begins_nr, RowMark.BEGINS, RowMark.GOES_ON)).astype(np.float16)
    return rows.rows(ids_nr).astype(np.float16)


def _marked_again(
    source: BaseSource, vectors_nrD: npt.NDArray[np.float16], begins_nr: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float16]:
    rows = source.embeddings
    if not isinstance(rows, TextRows):
        return vectors_nrD
    ids, _ = rows.read(vectors_nrD.reshape(-1, vectors_nrD.shape[-1]))
    return marked_vectors(source, ids.reshape(begins_nr.shape), begins_nr)


def _weight(text: str, token_id: int, vocab_size: int) -> float:
    if not any(char.isalnum() for char in text):
        return 0.0
    if any(char.isdigit() for char in text):
        return DIGIT_WEIGHT
    rank = float(np.log(max(token_id, 1) / NUM_COMMON) / np.log(max(vocab_size, 2 * NUM_COMMON) / NUM_COMMON))
    weight = max(rank, LEAST_WEIGHT if text[0].isspace() else GOES_ON_WEIGHT)
    is_name = bool(_NAME.match(text)) and text.strip()[0].isupper()
    return round((weight + NAME_BONUS * is_name) / WEIGHT_STEP) * WEIGHT_STEP


def _begins(places: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each place [..., r] does not follow on the one before it."""
    begins = np.ones(places.shape, dtype=np.bool_)
    begins[..., 1:] = np.diff(places, axis=-1) != 1
    return begins


def _best_stretches(traits: _Traits, width: int) -> npt.NDArray[np.int64]:
    """Places [n, width], ascending, of the stretches with the largest sums; equal ones go to the earlier."""
    num_nodes, num_candidates = traits.weights_nC.shape
    places_C = np.arange(num_candidates)
    bonus_nC = SENTENCE_BONUS * traits.is_first_nC
    stops_nC = traits.stops_nC
    sums_nC = np.concatenate([np.zeros((num_nodes, 1)), traits.weights_nC.cumsum(axis=1)], axis=1)
    is_taken_nC = np.zeros((num_nodes, num_candidates), dtype=np.bool_)
    num_left_n = np.full(num_nodes, width)
    while (going := np.flatnonzero(num_left_n)).size:
        is_taken_gC = is_taken_nC[going]
        taken_gC = np.where(is_taken_gC, places_C, num_candidates)
        next_taken_gC = np.minimum.accumulate(taken_gC[:, ::-1], axis=1)[:, ::-1]
        ends_gC = np.minimum(np.minimum(stops_nC[going], next_taken_gC), places_C + num_left_n[going, None])
        gains_gC = np.take_along_axis(sums_nC[going], ends_gC, axis=1) - sums_nC[going, :-1] + bonus_nC[going]
        may_begin_gC = traits.is_word_nC[going] & ~is_taken_gC
        may_begin_gC |= ~may_begin_gC.any(axis=1, keepdims=True) & ~is_taken_gC  # no word is left: anything
        best_g = np.where(may_begin_gC, gains_gC, -1.0).argmax(axis=1)
        end_g = np.take_along_axis(ends_gC, best_g[:, None], axis=1)[:, 0]
        is_taken_nC[going] |= (places_C >= best_g[:, None]) & (places_C < end_g[:, None])
        num_left_n[going] -= end_g - best_g
    return np.nonzero(is_taken_nC)[1].reshape(num_nodes, width)
