"""The native core: a decoder whose window may mix raw tokens and gists.

- every entry has a position and an uncertainty (Gaussian RoPE); an all-token window is a plain decoder
- partial rotary: the first ``rotary_dims`` of each head turn with position, the others match content however far away;
  the last one is kept for the bias of gist keys (62 of 64 turn in the bundled core, which began as a plain model)
- QK-norm with a learned gain; grouped-query attention; SwiGLU; RMSNorm before each part
- embeddings also see the two entries before (token shift), so that one layer can copy
- keys of gists carry a learned bias per head: memory can be turned down without touching how text is read
- output projections start at zero: each layer begins as the identity

Shape legend: B rows, T new entries, S all entries, D width, H query heads, G key-value heads, E head dimension,
V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.nets.gaussian_rope import frequencies, gaussian_phases, rotate
from megacontext.nets.norm import NORM_EPSILON
from megacontext.nets.shapes import NUM_SHIFTS, CoreConfig
from megacontext.nets.window_attention import attend_behind, attend_where

__all__ = ["Core", "CoreCache", "CoreOutput"]

EMBEDDING_STD = 0.5  # the scale that the layers' outputs grow to
QK_GAIN = 1.5  # sharp attention from the start: copying circuits form sooner
GIST_BIAS = -2.0  # nats by which a gist's key starts below a token's


Keys: TypeAlias = Tensor | tuple[Tensor, ...]


class CoreCache(Protocol):
    """What attention asks of a cache: keep the new keys and values of a layer, give all."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Keys, Keys]:
        """New keys and values [B, G, T, E] in, all [B, G, S, E] out; of rows with caches of their own, one of each."""
        ...

    def record_queries(self, queries: Tensor, scaling: float) -> None:
        """Keep the queries [B, H, T, E] of the layer that is tapped."""
        ...

    tap_layer: int


@dataclass(frozen=True)
class CoreOutput:
    """hidden_BTD: after the last norm; tapped_BTD: the residual stream after the layer that was asked for, or None."""

    hidden_BTD: Tensor  # noqa: N815 - shape suffix
    tapped_BTD: Tensor | None  # noqa: N815 - shape suffix


class Attention(nn.Module):
    """Causal grouped-query attention. The last dimension of every head is not content: queries hold 1 there, keys the
    bias of their kind, so that a fused kernel adds it to the logits without a mask."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.width, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.width, bias=False)
        self.q_gain = nn.Parameter(torch.full((config.head_dim,), QK_GAIN))
        self.k_gain = nn.Parameter(torch.full((config.head_dim,), QK_GAIN))
        self.gist_bias = nn.Parameter(torch.full((config.num_kv_heads,), GIST_BIAS))
        nn.init.zeros_(self.o_proj.weight)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        is_gist_BT: Tensor | None,
        mask: Tensor | None,
        cache: CoreCache | None,
        layer: int,
    ) -> Tensor:
        num_rows, num_new, _ = x_BTD.shape
        q = self.q_proj(x_BTD).view(num_rows, num_new, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x_BTD).view(num_rows, num_new, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x_BTD).view(num_rows, num_new, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q = functional.rms_norm(q, (self.head_dim,), self.q_gain, NORM_EPSILON)
        k = functional.rms_norm(k, (self.head_dim,), self.k_gain, NORM_EPSILON)
        q = rotate(q, cos, sin, last_BHT1=q.new_ones(1).expand(*q.shape[:-1], 1))
        k = rotate(k, cos, sin, last_BHT1=self._key_bias(k, is_gist_BT)[..., None])
        if cache is not None:
            if layer == cache.tap_layer:
                cache.record_queries(q, self.head_dim**-0.5)
            k, v = cache.update(k, v, layer)
        out: Tensor = self.o_proj(_attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return out

    def _key_bias(self, k_BGTE: Tensor, is_gist_BT: Tensor | None) -> Tensor:
        """What keys [B, G, T] add to every query that looks at them: nothing, unless they are gists'."""
        if is_gist_BT is None:
            return k_BGTE.new_zeros(1).expand(k_BGTE.shape[:-1])
        bias_BGT: Tensor = is_gist_BT[:, None].to(k_BGTE.dtype) * (self.gist_bias * self.head_dim**0.5)[:, None]
        return bias_BGT.expand(k_BGTE.shape[:-1])


def _attend(q_BHTE: Tensor, k_BGSE: Keys, v_BGSE: Keys, mask: Tensor | None) -> Tensor:
    """Attention [B, H, T, E], causal without a mask."""
    if isinstance(k_BGSE, tuple):
        each = zip(q_BHTE[:, None], k_BGSE, v_BGSE, strict=True)
        return torch.cat([_attend(q, k, v, mask) for q, k, v in each])
    assert isinstance(v_BGSE, Tensor)
    num_heads, num_kv_heads = q_BHTE.shape[1], k_BGSE.shape[1]
    if q_BHTE.shape[2] == 1 and mask is None:  # heads that share a key become rows of one product: keys are read once
        grouped = q_BHTE.reshape(len(q_BHTE), num_kv_heads, -1, q_BHTE.shape[-1])
        y = functional.scaled_dot_product_attention(grouped, k_BGSE, v_BGSE)
        return y.reshape(q_BHTE.shape)
    if mask is not None and mask.is_floating_point():
        return attend_where(q_BHTE, k_BGSE, v_BGSE, mask, scaling=q_BHTE.shape[-1] ** -0.5)
    # copied rather than enable_gqa: on a CPU the fused kernel is 1.16 times as fast
    k, v = (part.repeat_interleave(num_heads // num_kv_heads, 1) for part in (k_BGSE, v_BGSE))
    if mask is None and k.shape[2] > q_BHTE.shape[2]:
        return attend_behind(q_BHTE, k, v, scaling=q_BHTE.shape[-1] ** -0.5)
    return functional.scaled_dot_product_attention(q_BHTE, k, v, attn_mask=mask, is_causal=mask is None)


class SwiGLU(nn.Module):
    """Shazeer 2020, "GLU variants improve transformer"."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, mlp_width, bias=False)
        self.up = nn.Linear(width, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class CoreLayer(nn.Module):
    """Attention and MLP on one residual stream."""

    def __init__(self, config: CoreConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.mlp = SwiGLU(config.width, config.mlp_width)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        is_gist: Tensor | None,
        mask: Tensor | None,
        cache: CoreCache | None,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, is_gist, mask, cache, self.layer)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Core(nn.Module):
    """A decoder from entries (vectors at uncertain positions) to next-token logits."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.shifts = nn.ModuleList(_silent_map(config.width) for _ in range(NUM_SHIFTS))
        self.layers = nn.ModuleList(CoreLayer(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.log_sigma_scale = nn.Parameter(torch.zeros(()), requires_grad=config.learns_sigma)
        self._omega_F: Tensor | None = None
        nn.init.normal_(self.embed_tokens.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(
        self,
        entries_BTD: Tensor,
        mu_BT: Tensor,
        sigma_BT: Tensor | None,
        *,
        before_BTD: Tensor | None = None,
        neighbours_BNTD: Tensor | None = None,
        mask: Tensor | None = None,
        cache: CoreCache | None = None,
        tap_layer: int | None = None,
    ) -> CoreOutput:
        """Run entries, each attending to those before it in the window.

        Args:
            entries_BTD: token embeddings or gist vectors, in window order.
            mu_BT: positions, float64; one row serves all.
            sigma_BT: their standard deviations in positions, float32; above 0 marks a gist. None: all are tokens.
            before_BTD: the last two entries before these [B, 2, D] (token shift reads them), None at the start.
            neighbours_BNTD: the entries one and two before each [B, 2, T, D], where these do not follow one another.
            mask: bool [T, S], True where an entry may look, or the biases of ``attend_where``; None if each sees
                all before it, those in the cache first.
            cache: keys and values of earlier entries.
            tap_layer: whose residual stream to return too.
        """
        cos, sin = self.phases(mu_BT, sigma_BT, dtype=entries_BTD.dtype)
        is_gist_BT = None if sigma_BT is None else sigma_BT > 0
        if neighbours_BNTD is None:
            x_BTD = self.shifted(entries_BTD, before_BTD)
        else:
            x_BTD = self.shifted_by(entries_BTD, neighbours_BNTD)
        tapped_BTD = None
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos, sin, is_gist_BT, mask, cache)
            if tap_layer is not None and layer.layer == tap_layer:
                tapped_BTD = x_BTD
        return CoreOutput(self.norm(x_BTD), tapped_BTD)

    def embed(self, ids: Tensor) -> Tensor:
        """Entries of raw tokens: int64 [...] to [..., D]."""
        entries: Tensor = self.embed_tokens(ids)
        return entries

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] after the last norm to [..., V]."""
        logits: Tensor = self.head(hidden)
        return logits

    def phases(self, mu_BT: Tensor, sigma_BT: Tensor | None, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of entries at mu +- sigma, the learned factor on sigma included."""
        if sigma_BT is not None:
            sigma_BT = sigma_BT * self.log_sigma_scale.exp().to(sigma_BT.dtype)
        return gaussian_phases(mu_BT, sigma_BT, self._frequencies(mu_BT.device), dtype=dtype)

    def _frequencies(self, device: torch.device) -> Tensor:
        """Made once, and no buffer, which would be rounded with the weights."""
        if self._omega_F is None or self._omega_F.device != device:
            config = self.config
            omega_F = frequencies(config.rotary_dims, base=config.rotary_base, num_slow_bands=config.num_slow_bands)
            self._omega_F = omega_F.to(device)
        return self._omega_F

    def shifted(self, entries_BTD: Tensor, before_BTD: Tensor | None) -> Tensor:
        """Entries plus linear maps of the one and the two before them."""
        num_rows, num_new, width = entries_BTD.shape
        if before_BTD is None:
            before_BTD = entries_BTD.new_zeros(num_rows, NUM_SHIFTS, width)
        row_BTD = torch.cat([before_BTD, entries_BTD], dim=1)
        starts = (NUM_SHIFTS - distance for distance in range(1, NUM_SHIFTS + 1))
        return self.shifted_by(entries_BTD, torch.stack([row_BTD[:, at : at + num_new] for at in starts], dim=1))

    def shifted_by(self, entries_BTD: Tensor, neighbours_BNTD: Tensor) -> Tensor:
        """Entries plus linear maps of their neighbours, the one before first."""
        x_BTD = entries_BTD
        for shift, neighbour_BTD in zip(self.shifts, neighbours_BNTD.unbind(1), strict=True):
            x_BTD = x_BTD + shift(neighbour_BTD)
        return x_BTD


def _silent_map(width: int) -> nn.Linear:
    """A square linear map that starts at zero."""
    linear = nn.Linear(width, width, bias=False)
    nn.init.zeros_(linear.weight)
    return linear
