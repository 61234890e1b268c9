"""The native core in training: built, compiled, and run on windows of raw tokens.

B rows, T positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megacontext.nets.core import Core, CoreOutput
from megacontext.nets.shapes import CoreConfig
from megacontext.training.objective import cross_entropy

__all__ = ["build_core", "compile_core", "hidden_states", "window_loss"]

MOST_SHAPES = 64  # a curriculum has a dozen; by default the ninth would run uncompiled


def build_core(config: CoreConfig, *, seed: int) -> Core:
    """A fresh core in bfloat16, seeded."""
    torch.manual_seed(seed)
    return Core(config).to(torch.bfloat16)


def compile_core(core: Core) -> None:
    """Compile the layer once for all layers, per shape of window."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    for layer in core.layers:
        layer.compile(dynamic=False)


def hidden_states(core: Core, ids_BT: Tensor) -> Tensor:
    """[B, T, D] after the last norm of windows of raw tokens at positions 0..T-1."""
    mu_BT = torch.arange(ids_BT.shape[1], dtype=torch.float64, device=ids_BT.device)[None]
    sigma_BT = torch.zeros(1, ids_BT.shape[1], device=ids_BT.device)
    output: CoreOutput = core(core.embed(ids_BT), mu_BT, sigma_BT)
    return output.hidden_BTD


def window_loss(
    core: Core, ids_BT: Tensor, targets_BT: Tensor, weights_BT: Tensor, *, compiled: bool = True
) -> tuple[Tensor, Tensor]:
    """Weighted mean loss of a batch of windows of raw tokens, and the loss of every position [B, T]."""
    hidden_ND = hidden_states(core, ids_BT).flatten(0, 1)
    loss, losses_N = cross_entropy(
        hidden_ND, core.head.weight, targets_BT.flatten(), weights_BT.flatten(), compiled=compiled
    )
    return loss, losses_N.view_as(ids_BT)
