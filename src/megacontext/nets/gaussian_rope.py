"""Gaussian RoPE: rotary phases for entries that stand at a place with an uncertainty.

A token stands at one position; a gist stands for a span. Rotating by a position that is normally distributed with mean
mu and standard deviation sigma gives, in expectation, the rotation at mu shrunk by exp(-(omega sigma)^2 / 2): fast
frequencies fade for wide spans, slow ones still say where the span lies. sigma = 0 is plain RoPE, bit for bit.
RoPE: Su et al. 2021, "RoFormer". The expectation is the characteristic function of the normal distribution.

Shape legend: B rows, T entries, H heads, E dimensions of a head, F rotated pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["SLOW_BAND_PERIOD", "frequencies", "gaussian_phases", "rotate"]

# The slowest ultra-slow band turns once in this many positions: the longest history whose places stay apart.
SLOW_BAND_PERIOD = 2.0**40


def frequencies(rotary_dims: int, *, base: float, num_slow_bands: int = 0) -> Tensor:
    """Radians per position, float64 [F = rotary_dims / 2].

    The first F - num_slow_bands fall geometrically from 1 towards 1 / base, as in plain RoPE; the ultra-slow bands go
    on geometrically down to one turn in ``SLOW_BAND_PERIOD`` positions.
    """
    num_pairs = rotary_dims // 2
    num_plain = num_pairs - num_slow_bands
    plain_F = base ** (-torch.arange(num_plain, dtype=torch.float64) / max(1, num_plain))
    if not num_slow_bands:
        return plain_F
    slowest = 2 * math.pi / SLOW_BAND_PERIOD
    start = float(plain_F[-1]) if num_plain else 1.0
    steps_F = torch.arange(1, num_slow_bands + 1, dtype=torch.float64) / num_slow_bands
    return torch.cat([plain_F, start * (slowest / start) ** steps_F])


def gaussian_phases(
    mu_BT: Tensor, sigma_BT: Tensor | None, omega_F: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Attenuated cosines and sines [B, 1, T, F] of entries at mu +- sigma.

    mu_BT: float64, positions in tokens; phases are taken in float64 (at 2^40 they are exact to 1.3e-4 radians).
    sigma_BT: positions' standard deviations in tokens, 0 for raw tokens; None where there are no others.
    """
    phases_BTF = mu_BT.double()[..., None] * omega_F
    if sigma_BT is None:
        return phases_BTF.cos().float()[:, None].to(dtype), phases_BTF.sin().float()[:, None].to(dtype)
    fading_BTF = torch.exp(-0.5 * (sigma_BT[..., None] * omega_F.to(sigma_BT.dtype)) ** 2)
    cos, sin = (wave(phases_BTF).to(fading_BTF.dtype) * fading_BTF for wave in (torch.cos, torch.sin))
    return cos[:, None].to(dtype), sin[:, None].to(dtype)


def rotate(x_BHTE: Tensor, cos_B1TF: Tensor, sin_B1TF: Tensor, *, last_BHT1: Tensor | None = None) -> Tensor:
    """Turn the first 2 F dimensions of each head (the halves are the pairs); the rest is free of position.

    last_BHT1: what stands in the last dimension of each head instead of what is there.
    """
    num_pairs = cos_B1TF.shape[-1]
    left, right, free = x_BHTE.tensor_split((num_pairs, 2 * num_pairs), dim=-1)
    turned = [left * cos_B1TF - right * sin_B1TF, right * cos_B1TF + left * sin_B1TF, free]
    if last_BHT1 is not None:
        turned[2:] = [free[..., :-1], last_BHT1]
    return torch.cat(turned, dim=-1)
