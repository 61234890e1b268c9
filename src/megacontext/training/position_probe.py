"""Whether a core knows where its entries stand, and whether the uncertainty that gists are shown with fits.

A linear map reads the index of an entry's middle, in tokens of the row, from the residual stream; it is fitted on some
rows and judged on others. What it misses by is compared with the sigma that a gist was given, and the same windows are
scored with every sigma multiplied: if another factor served better, a learned one would find it.

Shape legend: B rows, S entries of a window, n entries of many rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.memory_windows import WindowRun, run_windows, score_windows
from megacontext.training.windows import Window

__all__ = ["index_errors", "scaled_sigma_nats"]

RIDGE = 1e-3  # of the mean square of a feature


def index_errors(
    core: Core, gist_net: GistNet, rows: Sequence[Window], *, tail_tokens: int, layer: int, block_tokens: int = 32
) -> dict[str, float]:
    """Root mean square error, in tokens, of the index read from the states after ``layer``, for the gists and the raw
    tokens of windows whose tail is open; ``sigma`` is what the gists were given, in tokens of the row.

    Fitted on the first half of the rows, judged on the second.
    """
    states, indices, is_gist = [], [], []
    for row in rows:
        run, index_S = _window(core, gist_net, row, tail_tokens=tail_tokens, block_tokens=block_tokens, layer=layer)
        assert run.tapped_BSD is not None
        states.append(run.tapped_BSD[0].cpu().double())
        indices.append(index_S)
        is_gist.append(run.windows.sigma_BS[0].cpu() > 0)
    half = len(rows) // 2
    fitted_D = _ridge(torch.cat(states[:half]), torch.cat(indices[:half]))
    missed_n = _with_one(torch.cat(states[half:])) @ fitted_D - torch.cat(indices[half:])
    gists_n = torch.cat(is_gist[half:])

    def rms(errors_n: Tensor) -> float:
        return round(float(errors_n.square().mean().sqrt()), 2)

    return {
        "gists": rms(missed_n[gists_n]),
        "tokens": rms(missed_n[~gists_n]),
        "guessing": rms(torch.cat(indices[half:]) - torch.cat(indices[:half]).mean()),
        "sigma": round(block_tokens * 12**-0.5, 2),
    }


def scaled_sigma_nats(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[Window],
    *,
    tail_tokens: int,
    factors: Sequence[float],
    block_tokens: int = 32,
) -> dict[float, np.ndarray]:
    """Mean nats of the tail's tokens by row [B], with the sigma of every gist multiplied by each factor."""
    is_open_BN = np.zeros((len(rows), len(rows[0].tokens_T) // block_tokens), dtype=np.bool_)
    is_open_BN[:, -(tail_tokens // block_tokens) :] = True
    before = core.log_sigma_scale.detach().clone()
    nats = {}
    try:
        for factor in factors:
            with torch.no_grad():
                core.log_sigma_scale.fill_(float(np.log(factor)))
            scores = score_windows(core, gist_net, rows, is_open_BN, block_tokens=block_tokens, gist_width=1)
            nats[factor] = scores.nats_BT[:, -tail_tokens:].mean(1)
    finally:
        with torch.no_grad():
            core.log_sigma_scale.copy_(before)
    return nats


def _window(
    core: Core, gist_net: GistNet, row: Window, *, tail_tokens: int, block_tokens: int, layer: int
) -> tuple[WindowRun, Tensor]:
    """A row in a window with its tail open, and the index [S] of every entry's middle, float64."""
    num_blocks = len(row.tokens_T) // block_tokens
    num_closed = num_blocks - tail_tokens // block_tokens
    is_open_BN = np.zeros((1, num_blocks), dtype=np.bool_)
    is_open_BN[:, num_closed:] = True
    run = run_windows(core, gist_net, [row], is_open_BN, block_tokens=block_tokens, gist_width=1, tap_layer=layer)
    middles = torch.arange(num_closed, dtype=torch.float64) * block_tokens + (block_tokens - 1) / 2
    places = torch.arange(num_closed * block_tokens, len(row.tokens_T), dtype=torch.float64)
    return run, torch.cat([middles, places])


def _with_one(states_nD: Tensor) -> Tensor:
    return torch.cat([states_nD, torch.ones_like(states_nD[:, :1])], dim=1)


def _ridge(states_nD: Tensor, index_n: Tensor) -> Tensor:
    features_nD = _with_one(states_nD)
    square_DD = features_nD.T @ features_nD
    penalty = RIDGE * square_DD.diagonal().mean() * torch.eye(len(square_DD), dtype=square_DD.dtype)
    fitted_D: Tensor = torch.linalg.solve(square_DD + penalty, features_nD.T @ index_n)
    return fitted_D
