"""GistNet: one encoder that turns a span into r vectors a language model can read in its place.

- one net for every block size, gist width and level: places inside the span are continuous features, not a table. What
  it tells depends on what it was taught: the shapes that a recipe draws, level 1 and 2 so far
- two bidirectional layers over the span, then attention pooling: each of the r slots looks from its own place
- the output has the scale of what it replaces, learned per kind of level (tokens below, gists below)
- it begins as the mean of each slot's share of the span, which a core reads as a bag of tokens from the first step on

Pooling by attention: Lee et al. 2019, "Set Transformer".

Shape legend: N spans, K vectors per span, r slots, D width, H heads, E head dimension, P pooling heads, F features,
I = P * E.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.errors import InvalidValueError
from megacontext.nets.norm import rms_normed
from megacontext.nets.shapes import NUM_LEVEL_KINDS, GistNetConfig

__all__ = ["GistNet", "activated", "attended", "share_means", "slot_centers"]

FIRST_SCALE = 0.1  # of what is learned, beside the mean
LONGEST_PERIOD = 512.0  # positions inside a span: twice the 128 children of the largest block and room


def slot_centers(num_children: int, gist_width: int, *, device: torch.device | None = None) -> Tensor:
    """Where each of the r vectors of a gist stands, float32 [r], in children from the first one's place on."""
    return (torch.arange(gist_width, dtype=torch.float32, device=device) + 0.5) * (num_children / gist_width) - 0.5


def share_means(vectors_NKD: Tensor, gist_width: int) -> Tensor:
    """Mean [N, r, D] of each slot's share of K vectors, as long as one of them: times the root of how many they are."""
    num_vectors = vectors_NKD.shape[1]
    slots_K = torch.arange(num_vectors, device=vectors_NKD.device) * gist_width // num_vectors
    is_in_rK = slots_K == torch.arange(gist_width, device=vectors_NKD.device)[:, None]
    weights_rK = is_in_rK / is_in_rK.sum(1, keepdim=True).sqrt()
    return weights_rK.to(vectors_NKD.dtype) @ vectors_NKD


def attended(q_NHKE: Tensor, k_NHKE: Tensor, v_NHKE: Tensor) -> Tensor:
    """Attention [N, H, K, E] of every vector to all of its span.

    Where gradients are wanted on a CPU, as two products and a softmax: the backward pass of the fused kernel takes four
    times as long for hundreds of spans of 32 vectors.
    """
    if q_NHKE.device.type != "cpu" or not torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(q_NHKE, k_NHKE, v_NHKE)
    shares_NHKK = (q_NHKE * q_NHKE.shape[-1] ** -0.5 @ k_NHKE.transpose(-2, -1)).softmax(-1)
    y_NHKE: Tensor = shares_NHKK @ v_NHKE
    return y_NHKE


def activated(x: Tensor) -> Tensor:
    """GELU (Hendrycks and Gimpel 2016), by tanh.

    Where no gradients are wanted, on a CPU in bfloat16, the exact one: there it is vectorised and takes a quarter of
    the time, and both differ by less than half a thousandth, which is less than that precision rounds to.
    """
    is_exact = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    return functional.gelu(x, approximate="none" if is_exact else "tanh")


class EncoderLayer(nn.Module):
    """Bidirectional attention and a GELU MLP over the vectors of one span."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x_NKD: Tensor) -> Tensor:
        num_spans, num_vectors, width = x_NKD.shape
        qkv = self.qkv(rms_normed(x_NKD)).view(num_spans, num_vectors, 3, self.num_heads, width // self.num_heads)
        q, k = rms_normed(qkv[:, :, :2]).permute(2, 0, 3, 1, 4)
        y = attended(q, k, qkv[:, :, 2].transpose(1, 2))
        x_NKD = x_NKD + self.out(y.transpose(1, 2).flatten(2))
        hidden = activated(self.up(rms_normed(x_NKD)))
        out: Tensor = x_NKD + self.down(hidden)
        return out


class GistNet(nn.Module):
    """Spans of K vectors to r vectors each."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        self.config = config
        pool_width = config.num_pool_heads * config.pool_head_dim
        self.place = nn.Linear(config.num_features, config.width, bias=False)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.slot_query = nn.Linear(config.num_features + 1, pool_width)
        self.pool_key = nn.Linear(config.width, pool_width, bias=False)
        self.pool_value = nn.Linear(config.width, pool_width, bias=False)
        self.pool_out = nn.Linear(pool_width, config.width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)
        self.level_scale = nn.Parameter(torch.full((NUM_LEVEL_KINDS, config.width), FIRST_SCALE))
        self.mean_gain = nn.Parameter(torch.ones(NUM_LEVEL_KINDS, config.width))
        self.level_shift = nn.Parameter(torch.zeros(NUM_LEVEL_KINDS, config.width))
        nn.init.zeros_(self.down.weight)

    def forward(self, vectors_NKD: Tensor, *, level: int, num_children: int, gist_width: int) -> Tensor:
        """Gists [N, r, D] of spans.

        Args:
            vectors_NKD: embeddings of the K = num_children tokens of each span (level 1), or the vectors of its
                children's gists in order, K a multiple of num_children (level 2 and up).
            level: of the gists that are made.
            num_children: how many tokens or nodes the span is made of.
            gist_width: r.

        Raises InvalidValueError for vectors of another shape or kind, or numbers that do not go together.
        """
        if vectors_NKD.ndim != 3 or vectors_NKD.shape[2] != self.config.width or not vectors_NKD.is_floating_point():
            raise InvalidValueError(
                f"the spans are {vectors_NKD.dtype} of shape {tuple(vectors_NKD.shape)}; give floating-point vectors "
                f"[spans, vectors, {self.config.width}]"
            )
        num_vectors = vectors_NKD.shape[1]
        child_width = num_vectors // max(1, num_children)
        if (
            min(level, num_children, child_width) < 1
            or child_width * num_children != num_vectors
            or not 1 <= gist_width <= num_vectors
        ):
            raise InvalidValueError(
                f"cannot make {gist_width} vectors of level {level} from {num_vectors} vectors of {num_children} "
                "children: give a level and children of at least 1, equally many vectors per child, and no more slots "
                "than vectors"
            )
        like, device = vectors_NKD, vectors_NKD.device
        within = slot_centers(1, child_width, device=device)
        places_K = (torch.arange(num_children, device=device)[:, None] + within).flatten()
        x_NKD = rms_normed(vectors_NKD) + self.place(self._features(places_K, like))
        for layer in self.layers:
            x_NKD = layer(x_NKD)
        x_NKD = rms_normed(x_NKD)
        centers_r = slot_centers(num_children, gist_width, device=device)
        reach = like.new_full((gist_width, 1), math.log2(num_children / gist_width))
        asks_rF = torch.cat([self._features(centers_r, like), reach], dim=-1)
        y_NrD = self._pool(x_NKD, self.slot_query(asks_rF))
        hidden = activated(self.up(rms_normed(y_NrD)))
        y_NrD = rms_normed(y_NrD + self.down(hidden))
        kind = min(level, NUM_LEVEL_KINDS) - 1
        means_NrD = share_means(vectors_NKD, gist_width) * self.mean_gain[kind]
        gists: Tensor = means_NrD + y_NrD * self.level_scale[kind] + self.level_shift[kind]
        return gists

    def _pool(self, x_NKD: Tensor, asks_rI: Tensor) -> Tensor:
        """What each slot finds [N, r, D]: attention of P heads from the slots to the vectors.

        Slots ask the same of every span, so their queries are folded into the map of keys, and values are mapped after
        they are summed up: neither is made for each vector, which would take a fifth of the net's arithmetic.
        """
        config = self.config
        (num_spans, _, width), gist_width = x_NKD.shape, len(asks_rI)
        heads = (config.num_pool_heads, config.pool_head_dim)
        asks_rPE = asks_rI.view(gist_width, *heads) * config.pool_head_dim**-0.5
        keys_PED, values_PED = (net.weight.view(*heads, width) for net in (self.pool_key, self.pool_value))
        asks_rPD = torch.einsum("rpe,ped->rpd", asks_rPE, keys_PED)
        shares_NrPK = (asks_rPD.flatten(0, 1) @ x_NKD.transpose(1, 2)).softmax(-1)
        sums_NrPD = (shares_NrPK @ x_NKD).view(num_spans, gist_width, config.num_pool_heads, width)
        found_NrPE = torch.einsum("nrpd,ped->nrpe", sums_NrPD, values_PED)
        found_NrD: Tensor = self.pool_out(found_NrPE.flatten(2))
        return found_NrD

    def _features(self, places: Tensor, like: Tensor) -> Tensor:
        """Sines and cosines [..., F] of places inside a span, periods from 2 positions up to ``LONGEST_PERIOD``."""
        num_pairs = self.config.num_features // 2
        periods = 2.0 * (LONGEST_PERIOD / 2) ** (torch.arange(num_pairs, device=places.device) / max(1, num_pairs - 1))
        phases = 2 * math.pi * places[..., None] / periods
        return torch.cat([phases.sin(), phases.cos()], dim=-1).to(like)
