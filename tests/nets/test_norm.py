"""Our RMSNorm against its formula."""

from __future__ import annotations

import pytest
import torch

from megacontext.nets.norm import rms_normed


@pytest.mark.parametrize("shape", [(3, 256), (2, 5, 4, 64), (1, 7)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_it_is_the_formula_up_to_two_roundings(shape: tuple[int, ...], scale: float) -> None:
    x = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    exact = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(rms_normed(x), exact)
    rough = rms_normed(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.016, atol=1e-3)


def test_vectors_of_nothing_stay_nothing() -> None:
    assert (rms_normed(torch.zeros(2, 8, dtype=torch.bfloat16)) == 0).all()
