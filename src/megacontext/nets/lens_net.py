"""LensNet: what opening a span would be worth, in nats per entry of budget, for what is asked now.

- two towers: queries from the core's hidden states of the last tokens, keys from the entries' own hidden states, or
  from gist vectors as they lie on disk, so that spans outside the window can be scored too
- late interaction: each query token looks for its own best entry (Khattab and Zaharia 2020, "ColBERT")
- a small MLP joins matches with what is known without reading: level, width, distance, words in common, residency
- O(entries): nothing here compares entries with each other

Shape legend: Q query tokens, n entries, r vectors per entry, D width, H heads, E key dimension, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.nets.core import NORM_EPSILON

__all__ = ["FEATURES", "KeyKind", "LensNet", "LensNetConfig"]

KeyKind = Literal["hidden", "gist"]
# What a lens knows of an entry beside its vectors; each is scaled to about [0, 1] by who fills it in.
FEATURES = ("level", "log2_width", "log2_distance", "lexical", "residency")


@dataclass(frozen=True, kw_only=True)
class LensNetConfig:
    """width: that of the core."""

    width: int = 256
    num_heads: int = 4
    key_dim: int = 64
    mlp_width: int = 64


FIRST_GUESS = -6.0  # softplus of it, and of the matches around 2 that are added to it: a few hundredths of a nat


class LensNet(nn.Module):
    """Scores entries against a query."""

    def __init__(self, config: LensNetConfig) -> None:
        super().__init__()
        self.config = config
        key_width = config.num_heads * config.key_dim
        self.query = nn.Linear(config.width, key_width, bias=False)
        self.salience = nn.Linear(config.width, config.num_heads, bias=False)
        self.key = nn.ModuleDict({kind: nn.Linear(config.width, key_width, bias=False) for kind in ("hidden", "gist")})
        self.sharpness = nn.Parameter(torch.full((config.num_heads,), 4.0))
        self.up = nn.Linear(config.num_heads + len(FEATURES), config.mlp_width)
        self.down = nn.Linear(config.mlp_width, 1)
        nn.init.constant_(self.down.bias, FIRST_GUESS)
        self.match_weight = nn.Parameter(torch.full((config.num_heads,), 1.0 / config.num_heads))

    def queries(self, hidden_QD: Tensor) -> tuple[Tensor, Tensor]:
        """Unit queries [H, Q, E] of the last tokens, and how much each matters [H, Q] (logits)."""
        normed_QD = functional.rms_norm(hidden_QD, (hidden_QD.shape[-1],), eps=NORM_EPSILON)
        q_HQE = self.query(normed_QD).unflatten(-1, (self.config.num_heads, -1)).transpose(-3, -2)
        return functional.normalize(q_HQE, dim=-1), self.salience(normed_QD).transpose(-2, -1)

    def keys(self, vectors_nD: Tensor, *, kind: KeyKind) -> Tensor:
        """Unit keys [H, n, E] of entries: of their hidden states, or of gist vectors as stored.

        The length of a vector does not matter, so it is not normalised before: that would take a third of the time.
        """
        k_nHE = self.key[kind](vectors_nD).unflatten(-1, (self.config.num_heads, -1))
        return functional.normalize(k_nHE, dim=-1).transpose(-3, -2)

    def matches(self, queries_HQE: Tensor, salience_HQ: Tensor, keys_HnE: Tensor) -> Tensor:
        """Soft maximum [n, H] over query tokens of how well each entry answers."""
        cosines_HQn = queries_HQE @ keys_HnE.transpose(-2, -1)
        weighted = cosines_HQn * self.sharpness[:, None, None] + salience_HQ.log_softmax(-1)[..., None]
        return weighted.logsumexp(-2).transpose(-2, -1)

    def forward(self, matches_nH: Tensor, features_nF: Tensor) -> Tensor:
        """Expected delta-NLL [n] in nats per entry of budget that opening each entry saves, >= 0."""
        hidden = functional.gelu(self.up(torch.cat([matches_nH, features_nF.to(matches_nH)], dim=-1)))
        raw_n: Tensor = self.down(hidden)[..., 0] + matches_nH @ self.match_weight
        return functional.softplus(raw_n)
