"""Weighted next-token cross-entropy that never holds all logits at once.

N rows, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["CHUNK_ROWS", "CHUNK_STEP", "cross_entropy"]

CHUNK_ROWS = 1024
CHUNK_STEP = 256  # what is left over is compiled for multiples of this


def _chunk(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each row, and the gradients of the weighted sum for the hidden states and the head."""
    logits_NV = (hidden_ND @ head_VD.T).float()
    peak_N1 = logits_NV.amax(-1, keepdim=True)
    exp_NV = torch.exp(logits_NV - peak_N1)
    total_N1 = exp_NV.sum(-1, keepdim=True)
    losses_N = (total_N1.log() + peak_N1 - logits_NV.gather(1, targets_N[:, None])).squeeze(1)
    hit_NV = torch.arange(head_VD.shape[0], device=head_VD.device)[None] == targets_N[:, None]
    slope_NV = ((exp_NV / total_N1 - hit_NV.float()) * weights_N[:, None]).to(hidden_ND.dtype)
    return losses_N, slope_NV @ head_VD, slope_NV.T @ hidden_ND


@cache
def _compiled_chunk() -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(_chunk, dynamic=False)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, compiled: bool
    ) -> tuple[Tensor, Tensor]:
        chunk = _compiled_chunk() if compiled else _chunk
        share_N = weights_N / weights_N.sum()
        losses, hidden_slopes = [], []
        head_slope_VD = torch.zeros(head_VD.shape, dtype=torch.float32, device=head_VD.device)
        for rows in range(0, len(hidden_ND), CHUNK_ROWS):
            part = slice(rows, rows + CHUNK_ROWS)
            losses_N, dh_ND, dw_VD = chunk(hidden_ND[part], head_VD, targets_N[part], share_N[part])
            losses.append(losses_N)
            hidden_slopes.append(dh_ND)
            head_slope_VD += dw_VD
        losses_N = torch.cat(losses)
        ctx.save_for_backward(torch.cat(hidden_slopes), head_slope_VD.to(head_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return (losses_N * share_N).sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_slope_ND, head_slope_VD = ctx.saved_tensors
        return hidden_slope_ND * slopes[0], head_slope_VD * slopes[0], None, None, None


def cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, compiled: bool = True
) -> tuple[Tensor, Tensor]:
    """Weighted mean of -log p(target) in nats, and the unweighted loss of every row.

    The gradients are computed together with the loss, 1,024 rows at a time: with a vocabulary of 4,096 the logits of
    a batch would take more memory traffic than all layers together.

    Args:
        hidden_ND: last hidden states after the final norm, bfloat16 or float32.
        head_VD: output embedding, same dtype.
        targets_N: token ids, int64.
        weights_N: weights >= 0, float32, not all zero; a row of weight zero teaches nothing.
        compiled: whether the chunk runs under `torch.compile`.

    Returns:
        The weighted mean (differentiable, float32 scalar) and the losses of all rows (float32, not differentiable).
    """
    mean, losses_N = _CrossEntropy.apply(hidden_ND, head_VD, targets_N, weights_N, compiled)  # type: ignore[no-untyped-call]
    return mean, losses_N
