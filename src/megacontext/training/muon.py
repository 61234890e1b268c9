"""Muon with its orthogonal steps in the precision that the device multiplies fast.

PyTorch's own takes them in bfloat16 whatever the device, which on a processor without bfloat16 units was 13.6 of the
16.2 seconds of a step (core of size S with its GistNet). Jordan et al. 2024, "Muon: An optimizer for hidden layers in
neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

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
    """`torch.optim.Muon` with the iteration in ``dtype``: same state, and in bfloat16 the same steps to the bit."""

    def __init__(
        self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float, dtype: torch.dtype
    ) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix_MN in group["params"]:
                if matrix_MN.grad is not None:
                    self._move(matrix_MN, matrix_MN.grad, group)

    def _move(self, matrix_MN: Tensor, gradient_MN: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix_MN]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient_MN)
        mean_MN = state["momentum_buffer"].lerp_(gradient_MN, 1 - group["momentum"])
        update_MN = orthogonal(
            gradient_MN.lerp(mean_MN, group["momentum"]),  # Nesterov's
            dtype=self.dtype,
            coefficients=group["ns_coefficients"],
            num_steps=group["ns_steps"],
            eps=group["eps"],
        )
        matrix_MN.mul_(1 - group["lr"] * group["weight_decay"])
        num_rows, num_columns = matrix_MN.shape
        matrix_MN.add_(update_MN, alpha=-group["lr"] * math.sqrt(max(1, num_rows / num_columns)))
