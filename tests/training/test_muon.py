"""Muon's orthogonal steps: the library's in bfloat16, the same iteration in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megacontext.training import optim
from megacontext.training.muon import Muon, orthogonal, shared_out
from megacontext.training.optim import MasterOptimizer, OptimConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
RATES = {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.95}


@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48)])
def test_steps_in_bfloat16_are_pytorchs_own_to_the_bit(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(shape, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    optimizers = (Muon([ours], **RATES, dtype=torch.bfloat16), torch.optim.Muon([theirs], **RATES))
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_states_are_those_of_pytorchs_own() -> None:
    """So runs from before, and on other devices, go on."""
    matrix = nn.Parameter(torch.ones(4, 8))
    matrix.grad = torch.ones(4, 8)
    ours, theirs = Muon([matrix], **RATES, dtype=torch.float32), torch.optim.Muon([matrix], **RATES)
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.state[matrix]["momentum_buffer"], theirs.state[matrix]["momentum_buffer"])
    assert ours.param_groups[0].keys() == theirs.param_groups[0].keys()


@pytest.mark.parametrize("shape", [(24, 24), (40, 12), (12, 40)])
def test_an_orthogonal_step_keeps_directions_and_evens_sizes(shape: tuple[int, int]) -> None:
    matrix_MN = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    step_MN = orthogonal(matrix_MN, dtype=torch.float32, coefficients=COEFFICIENTS, num_steps=5, eps=1e-7)
    assert step_MN.dtype == torch.float32
    left_MR, _, right_RN = torch.linalg.svd(matrix_MN, full_matrices=False)
    sizes_RR = left_MR.T @ step_MN @ right_RN.T  # diagonal if the directions are those of the matrix
    sizes_R = sizes_RR.diagonal()
    assert (sizes_RR - sizes_R.diag()).abs().max() < 1e-3
    assert sizes_R.min() > 0.5
    assert sizes_R.max() < 1.3


def test_precisions_agree() -> None:
    matrix_MN = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    wide, narrow = (
        orthogonal(matrix_MN, dtype=dtype, coefficients=COEFFICIENTS, num_steps=5, eps=1e-7).float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (wide - narrow).norm() / wide.norm() < 0.03


def test_a_gradient_of_zeros_moves_nothing_but_what_decays() -> None:
    matrix = nn.Parameter(torch.ones(4, 4))
    matrix.grad = torch.zeros(4, 4)
    Muon([matrix], **RATES, dtype=torch.float32).step()
    assert torch.equal(matrix, torch.full((4, 4), 1 - 0.02 * 0.01))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masters_step_in_what_the_device_multiplies_fast(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "working_dtype", lambda device: dtype)
    optimizer = MasterOptimizer(nn.Linear(4, 4).named_parameters(), OptimConfig())
    assert [one.dtype for one in optimizer.optimizers if isinstance(one, Muon)] == [dtype]


def test_a_team_shares_out_matrices_evenly() -> None:
    assert shared_out([5, 1, 1, 1, 1, 1], 2) == [0, 1, 1, 1, 1, 1]
    assert shared_out([3, 3, 2, 2, 2], 2) == [0, 1, 0, 1, 0]
    assert shared_out([4, 4], 1) == [0, 0]
    assert shared_out([7], 3) == [0]
    assert shared_out([], 2) == []
