"""Gaussian RoPE against its definition: a rotation by a normally distributed position."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from megacontext.nets.gaussian_rope import SLOW_BAND_PERIOD, frequencies, gaussian_phases, rotate


def turned(x_E: Tensor, mu: float, sigma: float, omega_F: Tensor) -> Tensor:
    """One head vector at one place."""
    cos, sin = gaussian_phases(
        torch.tensor([[mu]], dtype=torch.float64),
        torch.tensor([[sigma]], dtype=torch.float64),
        omega_F,
        dtype=x_E.dtype,
    )
    return rotate(x_E[None, None, None], cos, sin)[0, 0, 0]


def test_without_spread_it_is_plain_rope() -> None:
    omega_F = frequencies(8, base=100.0)
    x_E = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, right = x_E[:4], x_E[4:8]
    complex_F = torch.complex(left, right) * torch.exp(1j * 17.0 * omega_F)
    expected = torch.cat([complex_F.real, complex_F.imag, x_E[8:]])
    torch.testing.assert_close(turned(x_E, 17.0, 0.0, omega_F), expected)


def test_spread_is_the_mean_over_normally_distributed_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    omega_F = frequencies(8, base=100.0)
    x_E = torch.randn(8, dtype=torch.float64, generator=generator)
    places = 40.0 + 3.0 * torch.randn(200_000, dtype=torch.float64, generator=generator)
    cos, sin = gaussian_phases(places[None], torch.zeros(1, len(places)), omega_F, dtype=torch.float64)
    mean = rotate(x_E.expand(1, 1, len(places), 8), cos, sin)[0, 0].mean(0)
    torch.testing.assert_close(turned(x_E, 40.0, 3.0, omega_F), mean, atol=0.01, rtol=0.0)


def test_a_wide_span_keeps_slow_frequencies_and_loses_fast_ones() -> None:
    omega_F = frequencies(8, base=1e4)
    x_E = torch.ones(8, dtype=torch.float64)
    faded = turned(x_E, 0.0, 20.0, omega_F)
    assert faded[0].abs() < 1e-6
    assert faded[3] > 0.99


@pytest.mark.parametrize("start", [0.0, 2.0**31, 2.0**40])
def test_products_depend_on_the_distance_alone_far_into_a_history(start: float) -> None:
    generator = torch.Generator().manual_seed(1)
    omega_F = frequencies(32, base=1e4)
    q_E, k_E = torch.randn(2, 40, dtype=torch.float64, generator=generator)
    near = turned(q_E, 5.0, 0.0, omega_F) @ turned(k_E, 2.0, 0.0, omega_F)
    far = turned(q_E, start + 5.0, 0.0, omega_F) @ turned(k_E, start + 2.0, 0.0, omega_F)
    torch.testing.assert_close(far, near, atol=5e-3, rtol=0.0)


def test_neighbours_differ_at_two_to_the_forty() -> None:
    omega_F = frequencies(32, base=1e4)
    x_E = torch.ones(32, dtype=torch.float64)
    gap = turned(x_E, 2.0**40 + 1, 0.0, omega_F) - turned(x_E, 2.0**40, 0.0, omega_F)
    assert gap.abs().max() > 0.5


def test_slow_bands_tell_the_halves_of_the_longest_history_apart() -> None:
    omega_F = frequencies(32, base=1e4, num_slow_bands=4)
    assert omega_F.shape == (16,)
    assert (omega_F[1:] < omega_F[:-1]).all()
    assert float(omega_F[-1]) == pytest.approx(2 * math.pi / SLOW_BAND_PERIOD)
    x_E = torch.ones(32, dtype=torch.float64)
    assert (turned(x_E, 2.0**39, 0.0, omega_F) - turned(x_E, 0.0, 0.0, omega_F))[[15, 31]].abs().max() > 1.0
