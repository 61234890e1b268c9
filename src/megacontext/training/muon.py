"""Muon with its orthogonal steps in the precision that the device multiplies fast.

PyTorch's own takes them in bfloat16 whatever the device, which on a processor without bfloat16 units was 13.6 of the
16.2 seconds of a step (core of size S with its GistNet). Jordan et al. 2024, "Muon: An optimizer for hidden layers in
neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from megacontext.training.team import ALONE, Team

__all__ = ["Muon", "orthogonal"]


def orthogonal(
    matrix_MN: Tensor, *, dtype: torch.dtype, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> Tensor:
    """What `matrix_MN` does without its singular values, roughly: each becomes 0.7 to 1.2.

    The quintic Newton-Schulz iteration: X' = aX + (bG + cGG)X with G = XX', from X of norm 1.
    """
    a, b, c = coefficients
    is_tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    x_mn = (matrix_MN.T if is_tall else matrix_MN).to(dtype)
    x_mn = x_mn / x_mn.norm().clamp(min=eps)
    for _ in range(num_steps):
        gram_mm = x_mn @ x_mn.T
        x_mn = torch.addmm(x_mn, torch.addmm(gram_mm, gram_mm, gram_mm, beta=b, alpha=c), x_mn, beta=a)
    return x_mn.T if is_tall else x_mn


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with the iteration in ``dtype``: same state, and in bfloat16 the same steps to the bit.

    In a team each process finds the orthogonal steps of its share of the matrices and hands them round, so that all
    take the same steps and none is found twice.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype,
        team: Team = ALONE,
    ) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum)
        self.dtype = dtype
        self.team = team

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            moved = [matrix_MN for matrix_MN in group["params"] if matrix_MN.grad is not None]
            if self.team.size == 1:  # one step at a time is held
                for matrix_MN in moved:
                    _move(matrix_MN, self._update(matrix_MN, group, is_own=True), group)
                continue
            owners = shared_out([_cost(matrix_MN) for matrix_MN in moved], self.team.size)
            updates = [
                self._update(matrix_MN, group, is_own=owner == self.team.rank)
                for matrix_MN, owner in zip(moved, owners, strict=True)
            ]
            self.team.hand_round_(
                [
                    [update for update, owner in zip(updates, owners, strict=True) if owner == rank]
                    for rank in range(self.team.size)
                ]
            )
            for matrix_MN, update_MN in zip(moved, updates, strict=True):
                _move(matrix_MN, update_MN, group)

    def _update(self, matrix_MN: Tensor, group: dict[str, Any], *, is_own: bool) -> Tensor:
        """The orthogonal step, or room for it if another process finds it; the momentum goes on in either case."""
        gradient_MN, state = matrix_MN.grad, self.state[matrix_MN]
        assert gradient_MN is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient_MN)
        mean_MN = state["momentum_buffer"].lerp_(gradient_MN, 1 - group["momentum"])
        if not is_own:
            return torch.empty_like(matrix_MN, dtype=self.dtype)
        return orthogonal(
            gradient_MN.lerp(mean_MN, group["momentum"]),  # Nesterov's
            dtype=self.dtype,
            coefficients=group["ns_coefficients"],
            num_steps=group["ns_steps"],
            eps=group["eps"],
        )


def _move(matrix_MN: Tensor, update_MN: Tensor, group: dict[str, Any]) -> None:
    num_rows, num_columns = matrix_MN.shape
    matrix_MN.mul_(1 - group["lr"] * group["weight_decay"])
    matrix_MN.add_(update_MN, alpha=-group["lr"] * math.sqrt(max(1, num_rows / num_columns)))


def _cost(matrix_MN: Tensor) -> int:
    """Multiplications of one iteration."""
    few, many = sorted(matrix_MN.shape)
    return few * few * (2 * many + few)


def shared_out(costs: Sequence[int], num_parts: int) -> list[int]:
    """To which part each belongs, so that their sums are about equal: the dearest first, to the part with least."""
    sums, parts = [0] * num_parts, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        parts[index] = min(range(num_parts), key=sums.__getitem__)
        sums[parts[index]] += costs[index]
    return parts
