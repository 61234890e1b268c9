"""LensNet: what opening a span would be worth, in nats, for what is asked now.

Worth is a probability times a stake: which span holds what the next tokens need (or none does), and what seeing it
would save. The first is a choice among all spans at hand, so that thousands of them together expect no more than is to
be had; the second depends on what stands for the span now, a gist of its own or one of a far larger span.

- two towers: queries from the core's hidden states of the last tokens, keys from gist vectors as they lie on disk, so
  that spans outside the window can be scored too, and what stands open in it changes nothing
- late interaction: each query token looks for its own best entry (Khattab and Zaharia 2020, "ColBERT")
- exact words: what a span has in common with the query, each query token weighed by its state and its place from the
  end, because a question stands among others (Gao et al. 2021, "COIL", weighs both sides)
- a small MLP joins matches with what is known without reading: distance, words in common, whether the text goes on
  there. Level and width are so far the same wherever it is taught or asked, and residency is zero: no label knows of it
- O(entries): nothing here compares entries with each other

Shape legend: Q query tokens, n entries, r vectors per entry, D width, H heads, E key dimension, W word heads,
F features, T words and features that are told, L levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.errors import InvalidValueError
from megacontext.nets.norm import NORM_EPSILON
from megacontext.nets.shapes import STAKE_LEVELS, WORD_KINDS, LensNetConfig

__all__ = ["LensNet", "Queries", "shares_of"]

LEAST_AMOUNT = 1e-38  # float32 counts no further: e^-87
OUTSIDE = -4.0  # the logit of a place outside of where a way to weigh words begins
FIRST_WORDS = 4.0  # logits of ``lexical_8`` at first: where MAX_WORDS words of the last tokens are in common


class Queries(NamedTuple):
    """What the last tokens ask: unit vectors [H, Q, E], how much each matters [H, Q] (logits), and how much each counts
    where words are compared [WORD_KINDS, W, Q] (sums to 1 over Q); the evidence that nothing is needed [] (a logit
    beside those of spans), what is at stake [L] in nats, and how far words and features are trusted [T] (0 to 2): a
    question wants other ones than running text. None for a lens that trusts them alike."""

    vectors_HQE: Tensor  # noqa: N815 - shape suffix
    salience_HQ: Tensor  # noqa: N815 - shape suffix
    words_4WQ: Tensor  # noqa: N815 - shape suffix
    nothing: Tensor
    stakes_L: Tensor  # noqa: N815 - shape suffix
    trust_T: Tensor | None  # noqa: N815 - shape suffix


class LensNet(nn.Module):
    """Scores entries against a query."""

    def __init__(self, config: LensNetConfig) -> None:
        super().__init__()
        self.config = config
        key_width = config.num_heads * config.key_dim
        self.query = nn.Linear(config.width, key_width, bias=False)
        self.salience = nn.Linear(config.width, config.num_heads, bias=False)
        self.key = nn.Linear(config.width, key_width, bias=False)
        self.sharpness = nn.Parameter(torch.full((config.num_heads,), 4.0))
        self.word_salience = nn.Linear(config.width, WORD_KINDS * config.num_word_heads, bias=False)
        self.word_places = nn.Parameter(_windows(config).repeat(WORD_KINDS, 1))
        num_told = WORD_KINDS * config.num_word_heads + len(config.features)
        self.up = nn.Linear(config.num_heads + num_told, config.mlp_width)
        self.down = nn.Linear(config.mlp_width, 1)
        self.need_salience = nn.Linear(config.width, 1, bias=False)
        self.need_places = nn.Parameter(torch.zeros(1, config.query_tokens))
        self.need = nn.Linear(config.width, 1 + STAKE_LEVELS)
        self.match_weight = nn.Parameter(torch.full((config.num_heads,), 1.0 / config.num_heads))
        if config.direct:
            self.told_weight = nn.Parameter(_begun(config, num_told))
            self.trust = nn.Linear(config.width, num_told)
            nn.init.zeros_(self.trust.weight)
            nn.init.zeros_(self.trust.bias)

    def queries(self, hidden_QD: Tensor) -> Queries:
        """From the core's hidden states of the last tokens; of more than ``query_tokens``, the last ones count.
        InvalidValueError if there are none."""
        if not hidden_QD.shape[-2]:
            raise InvalidValueError("there are 0 states to ask with; give at least that of one token")
        hidden_QD = hidden_QD[..., -self.config.query_tokens :, :]
        normed_QD = functional.rms_norm(hidden_QD, (hidden_QD.shape[-1],), eps=NORM_EPSILON)
        q_HQE = self.query(normed_QD).unflatten(-1, (self.config.num_heads, -1)).transpose(-3, -2)
        num_queries = normed_QD.shape[-2]
        logits_wQ = self.word_salience(normed_QD).transpose(-2, -1) + self.word_places[:, -num_queries:]
        need_1Q = self.need_salience(normed_QD).transpose(-2, -1) + self.need_places[:, -num_queries:]
        asked_D = (need_1Q.softmax(-1) @ normed_QD)[..., 0, :]
        need_N = self.need(asked_D)
        return Queries(
            functional.normalize(q_HQE, dim=-1),
            self.salience(normed_QD).transpose(-2, -1),
            logits_wQ.softmax(-1).unflatten(-2, (WORD_KINDS, -1)),
            need_N[..., 0],
            functional.softplus(need_N[..., 1:]),
            2 * self.trust(asked_D).sigmoid() if self.config.direct else None,
        )

    def keys(self, gists_nD: Tensor) -> Tensor:
        """Unit keys [n, H, E] of gist vectors as stored.

        The length of a vector does not matter, so it is not normalised before: that would take a third of the time.
        """
        return functional.normalize(self.key(gists_nD).unflatten(-1, (self.config.num_heads, -1)), dim=-1)

    def found(self, queries: Queries, keys_nHE: Tensor) -> Tensor:
        """How well each gist answers [n, H], float32: the soft maximum over query tokens for each head.

        Cosines end at 1, so what is summed can be scaled by that instead of by a maximum that has to be looked for.
        They are compared in the precision of the keys: bfloat16 moves what is found by less than 0.01.
        """
        sharp_HQE = queries.vectors_HQE * self.sharpness[:, None, None]
        most_H1 = self.sharpness.abs()[:, None]
        weights_HQ1 = queries.salience_HQ.softmax(-1)[..., None]
        amounts_HnQ = (keys_nHE.movedim(-2, -3) @ sharp_HQE.mT.to(keys_nHE)).sub_(most_H1[..., None]).exp_()
        found_Hn = (amounts_HnQ @ weights_HQ1.to(keys_nHE))[..., 0].float().clamp_min(LEAST_AMOUNT).log() + most_H1
        return found_Hn.mT

    def in_common(self, queries: Queries, words_nQ4: Tensor) -> Tensor:
        """Words in common [n, WORD_KINDS * W], each query token weighed; words_nQ4: how much of each a span has, by
        kind, as ``WordsInCommon.by_token`` gives it."""
        num_queries = queries.words_4WQ.shape[-1]
        words_4nQ = words_nQ4[..., -num_queries:, :].movedim(-1, -3).to(queries.words_4WQ)
        return (words_4nQ @ queries.words_4WQ.transpose(-2, -1)).movedim(-3, -2).flatten(-2)

    def in_common_by_column(
        self,
        queries: Queries,
        starts_n: Tensor,
        columns_m: Tensor,
        amounts_m: Tensor,
        columns_4Q: Tensor,
        num_columns: int,
    ) -> Tensor:
        """The same from what was found, in compressed rows as ``WordsInCommon`` has them; of the query's places that
        ``columns_4Q`` knows, the last count. What a column weighs is what its places weigh together."""
        num_heads, num_queries = queries.words_4WQ.shape[1:]
        assert columns_4Q.shape[-1] >= num_queries, "fewer tokens than states that ask"
        columns_4WQ = columns_4Q[:, None, -num_queries:].expand(-1, num_heads, -1)
        weights_4WC = queries.words_4WQ.new_zeros(WORD_KINDS, num_heads, num_columns)
        weights_Cw = weights_4WC.scatter_add_(2, columns_4WQ, queries.words_4WQ).flatten(0, 1).T.contiguous()
        in_common_nw: Tensor = functional.embedding_bag(
            columns_m, weights_Cw, starts_n, mode="sum", per_sample_weights=amounts_m
        )
        return in_common_nw

    def forward(self, queries: Queries, found_nH: Tensor, in_common_nw: Tensor | None, features_nF: Tensor) -> Tensor:
        """The evidence [n] that an entry holds what is needed, as logits beside ``Queries.nothing``.

        found_nH: as ``found`` has it; in_common_nw: None if nobody has looked at words; features_nF: in the order of
        the configuration's.
        """
        if in_common_nw is None:
            num_words = WORD_KINDS * self.config.num_word_heads
            in_common_nw = found_nH.new_zeros(*found_nH.shape[:-1], num_words)
        told_nT = torch.cat([in_common_nw, features_nF.to(found_nH)], dim=-1)
        if queries.trust_T is not None:
            told_nT = told_nT * queries.trust_T[..., None, :]
        known = self.up(torch.cat([found_nH, told_nT], dim=-1))
        logits_n: Tensor = self.down(functional.gelu(known))[..., 0] + found_nH @ self.match_weight
        return logits_n + told_nT @ self.told_weight if self.config.direct else logits_n


def _windows(config: LensNetConfig) -> Tensor:
    """Where each way [W, Q] to weigh the query's tokens begins: all of them, their second half, last quarter ..."""
    places_WQ = torch.full((config.num_word_heads, config.query_tokens), OUTSIDE)
    for head in range(config.num_word_heads):
        places_WQ[head, -max(1, config.query_tokens >> head) :] = 0.0
    return places_WQ


def _begun(config: LensNetConfig, num_told: int) -> Tensor:
    """What words and features [T] count for themselves at first: the words of the last tokens, and nothing else."""
    weight_T = torch.zeros(num_told)
    for place, name in enumerate(config.features):
        if name == "lexical_8":
            weight_T[place - len(config.features)] = FIRST_WORDS
    return weight_T


def shares_of(logits_n: Tensor, nothing: Tensor) -> Tensor:
    """Probabilities [..., n] that each entry holds what is needed; what they lack to 1 is that none does."""
    return torch.cat([nothing[..., None], logits_n], dim=-1).softmax(-1)[..., 1:]
