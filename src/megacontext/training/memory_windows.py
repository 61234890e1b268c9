"""Mixed windows after training: run, scored, and run again with their controls.

Shape legend: B rows, T tokens, N blocks of K tokens, C closed blocks, r gist width, S entries, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.gist_cuts import UNJOINED, Joined
from megacontext.training.mixed import (
    MixedWindows,
    closed_gists,
    joined_gists,
    mixed_windows,
    window_entries,
)
from megacontext.training.objective import CHUNK_ROWS
from megacontext.training.windows import Window

__all__ = ["CONTROLS", "Control", "RowScores", "WindowRun", "batches_of", "run_windows", "score_windows", "scores_of"]

Control = Literal["real", "shuffled", "none"]
CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class RowScores:
    """nats_BT: float32, NaN where nothing is predicted; hits_BT: whether the likeliest token is the right one."""

    nats_BT: npt.NDArray[np.float32]  # noqa: N815 - shape suffix
    hits_BT: npt.NDArray[np.bool_]  # noqa: N815 - shape suffix


@dataclass(frozen=True)
class WindowRun:
    """A batch of mixed windows after a forward: the layout, the last hidden states [B, S, D], those of the tapped
    layer, and the gist vectors [B, C, r, D] that were shown."""

    windows: MixedWindows
    hidden_BSD: torch.Tensor  # noqa: N815 - shape suffix
    tapped_BSD: torch.Tensor | None  # noqa: N815 - shape suffix
    gists_BCrD: torch.Tensor  # noqa: N815 - shape suffix


def batches_of(rows: Sequence[Window], size: int) -> list[Sequence[Window]]:
    """Rows in batches of ``size``; a last one alone goes with those before, because ``shuffled`` needs another row."""
    firsts = list(range(0, len(rows), size))
    if len(firsts) > 1 and len(rows) % size == 1:
        firsts.pop()
    return [rows[first:stop] for first, stop in zip(firsts, [*firsts[1:], len(rows)], strict=True)]


@torch.no_grad()
def run_windows(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[Window],
    is_open_BN: npt.NDArray[np.bool_],
    *,
    block_tokens: int,
    gist_width: int,
    control: Control = "real",
    joined: Joined = UNJOINED,
    tap_layer: int | None = None,
    made_BCrD: torch.Tensor | None = None,
) -> WindowRun:
    """Run rows through windows that show the closed blocks as gists. ``shuffled`` needs at least two rows; ``none``
    leaves the entries that remain at their places; ``made_BCrD``: gists of each row's first blocks, if they are known
    already and no block after them is closed."""
    device = core.embed_tokens.weight.device
    ids_BT = torch.from_numpy(np.stack([row.tokens_T for row in rows])).to(device)
    windows = mixed_windows(is_open_BN, block_tokens=block_tokens, gist_width=gist_width, joined=joined).to(device)
    num_rows, num_tokens = ids_BT.shape
    entries_BTD = core.embed(ids_BT)
    if made_BCrD is None:
        gists_BCrD = closed_gists(gist_net, windows, entries_BTD)
    else:
        gists_BCrD = made_BCrD[torch.arange(num_rows, device=device)[:, None], windows.closed_BC]
    if control == "shuffled":
        assert num_rows > 1, "there is no other row to take gists from"
        gists_BCrD = gists_BCrD.roll(1, 0)
    inputs_BSD = window_entries(windows, entries_BTD, gists_BCrD, joined_gists(gist_net, windows, gists_BCrD))
    if control == "none":
        shown_BS = windows.sources_BS < num_tokens
        is_said_P = shown_BS.flatten()[windows.entries_P]
        windows = dataclasses.replace(
            windows,
            mu_BS=windows.mu_BS[shown_BS].view(num_rows, -1),
            sigma_BS=windows.sigma_BS[shown_BS].view(num_rows, -1),
            positions_P=windows.positions_P[is_said_P],
            entries_P=(shown_BS.flatten().cumsum(0) - 1)[windows.entries_P][is_said_P],
        )
        inputs_BSD = inputs_BSD[shown_BS].view(num_rows, -1, inputs_BSD.shape[-1])
    output = core(inputs_BSD, windows.mu_BS, windows.sigma_BS, tap_layer=tap_layer)
    return WindowRun(windows, output.hidden_BTD, output.tapped_BTD, gists_BCrD)


@torch.no_grad()
def scores_of(core: Core, run: WindowRun, rows: Sequence[Window], *, first: int = 0) -> RowScores:
    """What a run says of every next token that it predicts, from the one after position ``first`` of each row on."""
    hidden_SD = run.hidden_BSD.flatten(0, 1)
    targets_N = torch.from_numpy(np.stack([row.targets_T for row in rows])).flatten().to(hidden_SD.device)
    nats_N = torch.full((len(targets_N),), math.nan, device=hidden_SD.device)
    hits_N = torch.zeros(len(targets_N), dtype=torch.bool, device=hidden_SD.device)
    wanted = run.windows.positions_P % len(rows[0].tokens_T) >= first
    positions_P, entries_P = run.windows.positions_P[wanted], run.windows.entries_P[wanted]
    for start in range(0, len(positions_P), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        positions = positions_P[chunk]
        logits = core.logits(hidden_SD[entries_P[chunk]]).float()
        nats_N[positions] = torch.nn.functional.cross_entropy(logits, targets_N[positions], reduction="none")
        hits_N[positions] = logits.argmax(-1) == targets_N[positions]
    return RowScores(nats_N.view(len(rows), -1).cpu().numpy(), hits_N.view(len(rows), -1).cpu().numpy())


def score_windows(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[Window],
    is_open_BN: npt.NDArray[np.bool_],
    *,
    block_tokens: int,
    gist_width: int,
    control: Control = "real",
    joined: Joined = UNJOINED,
) -> RowScores:
    """``run_windows``, then ``scores_of``."""
    run = run_windows(
        core,
        gist_net,
        rows,
        is_open_BN,
        block_tokens=block_tokens,
        gist_width=gist_width,
        control=control,
        joined=joined,
    )
    return scores_of(core, run, rows)
