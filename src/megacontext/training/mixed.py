"""Windows that mix raw blocks and gists, made from rows of raw tokens.

A row of T tokens is cut into blocks. Its last blocks and a few others stay open; of the rest the window shows gists,
made by GistNet on the way; its first blocks may be joined, several to one gist of level 2, as the far past of a long
history is. Loss falls only where a shown entry is followed by a shown token: an open block's tokens, and the last
vector of a gist before an open block.

Shape legend: B rows, T tokens of a row, K block_tokens, N = T / K blocks, r gist_width, C closed blocks of a row,
G gists of level 2, S entries of a window, P predicted positions of the batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.gist_cuts import UNJOINED, Joined, predicted
from megacontext.training.objective import CHUNK_STEP, cross_entropy
from megacontext.tree.timeline import GIST_EXTENT, timeline

__all__ = [
    "MixedWindows",
    "closed_gists",
    "entry_indices",
    "joined_gists",
    "mixed_loss",
    "mixed_windows",
    "window_entries",
]


ENTRIES_STEP = 32  # windows are filled up to a multiple: a core is compiled for few lengths


@dataclass(frozen=True, kw_only=True)
class MixedWindows:
    """A batch of windows of S entries each.

    closed_BC: blocks that show as gists, the joined ones first; sources_BS: where an entry comes from in the row's T
    tokens followed by its C * r gist vectors and the G * r of level 2; mu_BS, sigma_BS: places on the timeline;
    positions_P: flat positions b * T + t whose next token is predicted, from the flat entries entries_P.
    """

    block_tokens: int
    gist_width: int
    joined: Joined
    closed_BC: Tensor  # noqa: N815 - shape suffix
    sources_BS: Tensor  # noqa: N815 - shape suffix
    mu_BS: Tensor  # noqa: N815 - shape suffix
    sigma_BS: Tensor  # noqa: N815 - shape suffix
    positions_P: Tensor  # noqa: N815 - shape suffix
    entries_P: Tensor  # noqa: N815 - shape suffix

    def to(self, device: torch.device) -> MixedWindows:
        """The same there."""
        return replace(
            self,
            closed_BC=self.closed_BC.to(device),
            sources_BS=self.sources_BS.to(device),
            mu_BS=self.mu_BS.to(device),
            sigma_BS=self.sigma_BS.to(device),
            positions_P=self.positions_P.to(device),
            entries_P=self.entries_P.to(device),
        )


def mixed_windows(
    is_open_BN: npt.NDArray[np.bool_],
    *,
    block_tokens: int,
    gist_width: int,
    joined: Joined = UNJOINED,
    gist_extent: float = GIST_EXTENT,
) -> MixedWindows:
    """Lay out windows; every row must have as many open blocks as the others, and none among the joined ones."""
    num_rows, num_blocks = is_open_BN.shape
    num_tokens, num_open = num_blocks * block_tokens, int(is_open_BN[0].sum())
    num_joined = joined[0] * joined[1]
    assert (is_open_BN.sum(1) == num_open).all(), "rows of one batch have equally many open blocks"
    assert not is_open_BN[:, :num_joined].any(), "joined blocks are closed"
    closed_BC = np.nonzero(~is_open_BN)[1].reshape(num_rows, num_blocks - num_open)
    rows = [
        _lay_out(is_open_N, block_tokens=block_tokens, gist_width=gist_width, joined=joined) for is_open_N in is_open_BN
    ]
    sources_BS = np.stack([sources_S for sources_S, _, _ in rows])
    widths_BS = np.stack([widths_S for _, widths_S, _ in rows])
    entry_of_BT = np.stack([entry_of_T for _, _, entry_of_T in rows])
    places = [timeline(widths_S, gist_extent=gist_extent) for widths_S in widths_BS]
    is_raw_BS = sources_BS < num_tokens
    predicted_BT = predicted(is_open_BN, block_tokens=block_tokens)
    entry_of_BT += np.arange(num_rows)[:, None] * sources_BS.shape[1]
    return MixedWindows(
        block_tokens=block_tokens,
        gist_width=gist_width,
        joined=joined,
        closed_BC=torch.from_numpy(closed_BC),
        sources_BS=torch.from_numpy(sources_BS),
        mu_BS=torch.from_numpy(np.stack([mu_S for mu_S, _ in places])),
        sigma_BS=torch.from_numpy(
            np.where(is_raw_BS, 0.0, np.stack([extents_S for _, extents_S in places]) * 12**-0.5).astype(np.float32)
        ),
        positions_P=torch.from_numpy(np.flatnonzero(predicted_BT)),
        entries_P=torch.from_numpy(entry_of_BT[predicted_BT]),
    )


def _lay_out(
    is_open_N: npt.NDArray[np.bool_], *, block_tokens: int, gist_width: int, joined: Joined
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Of one window: sources [S], widths in tokens [S] and the entry [T] that speaks for each token."""
    num_blocks, (num_groups, group_blocks) = len(is_open_N), joined
    num_tokens, num_joined = num_blocks * block_tokens, num_groups * group_blocks
    num_closed = num_blocks - int(is_open_N.sum())
    counts_N = np.where(is_open_N, block_tokens, gist_width)
    counts_N[:num_joined] = 0
    num_first = num_groups * gist_width
    firsts_N = num_first + np.cumsum(counts_N) - counts_N
    blocks_S = np.repeat(np.arange(num_blocks), counts_N)
    slots_S = num_first + np.arange(len(blocks_S)) - firsts_N[blocks_S]
    is_raw_S = is_open_N[blocks_S]
    closed_before_S = np.cumsum(~is_open_N)[blocks_S] - 1
    sources_S = np.where(
        is_raw_S, blocks_S * block_tokens + slots_S, num_tokens + closed_before_S * gist_width + slots_S
    )
    of_groups_S = num_tokens + num_closed * gist_width + np.arange(num_first)
    widths_S = np.where(is_raw_S, 1.0, block_tokens / gist_width)
    group_widths_S = np.full(num_first, group_blocks * block_tokens / gist_width)
    last_slot_N = firsts_N + np.where(is_open_N, 0, gist_width - 1)
    last_slot_N[:num_joined] = np.arange(num_joined) // group_blocks * gist_width + gist_width - 1
    within_T = np.where(np.repeat(is_open_N, block_tokens), np.tile(np.arange(block_tokens), num_blocks), 0)
    return (
        np.concatenate([of_groups_S, sources_S]),
        np.concatenate([group_widths_S, widths_S]),
        np.repeat(last_slot_N, block_tokens) + within_T,
    )


def closed_gists(gist_net: GistNet, windows: MixedWindows, entries_BTD: Tensor) -> Tensor:
    """Gists [B, C, r, D] of the closed blocks of rows of token embeddings."""
    num_rows, _, width = entries_BTD.shape
    blocks_BNKD = entries_BTD.view(num_rows, -1, windows.block_tokens, width)
    spans_BCKD = blocks_BNKD[torch.arange(num_rows, device=entries_BTD.device)[:, None], windows.closed_BC]
    gists_nrD: Tensor = gist_net(
        spans_BCKD.flatten(0, 1), level=1, num_children=windows.block_tokens, gist_width=windows.gist_width
    )
    return gists_nrD.view(num_rows, -1, windows.gist_width, width)


def joined_gists(gist_net: GistNet, windows: MixedWindows, gists_BCrD: Tensor) -> Tensor:
    """Gists of level 2 [B, G, r, D] that the windows begin with, from those of their blocks."""
    num_groups, group_blocks = windows.joined
    num_rows, _, gist_width, width = gists_BCrD.shape
    if not num_groups:
        return gists_BCrD[:, :0]
    children_NKD = gists_BCrD[:, : num_groups * group_blocks].reshape(-1, group_blocks * gist_width, width)
    gists_NrD: Tensor = gist_net(children_NKD, level=2, num_children=group_blocks, gist_width=gist_width)
    return gists_NrD.view(num_rows, num_groups, gist_width, width)


def window_entries(windows: MixedWindows, entries_BTD: Tensor, gists_BCrD: Tensor, joined_BGrD: Tensor) -> Tensor:
    """Entries [B, S, D] in window order, from the rows' token embeddings, the gists of their closed blocks and those
    of level 2."""
    sources_BSD = torch.cat([entries_BTD, gists_BCrD.flatten(1, 2), joined_BGrD.flatten(1, 2)], dim=1)
    return sources_BSD[torch.arange(len(entries_BTD), device=entries_BTD.device)[:, None], windows.sources_BS]


def entry_indices(windows: MixedWindows, *, num_tokens: int) -> Tensor:
    """Index [B, S] of the middle of each entry's part of the row, in tokens from its beginning, float32."""
    block_tokens, width = windows.block_tokens, windows.gist_width
    num_groups, group_blocks = windows.joined
    slots_r = (torch.arange(width, device=windows.closed_BC.device) + 0.5) / width
    tokens_T = torch.arange(num_tokens, device=slots_r.device).expand(len(windows.closed_BC), -1)
    blocks_BCr = (windows.closed_BC[..., None] + slots_r) * block_tokens - 0.5
    groups_Gr = (torch.arange(num_groups, device=slots_r.device)[:, None] + slots_r) * group_blocks * block_tokens - 0.5
    groups_BN = groups_Gr.flatten().expand(len(windows.closed_BC), -1)
    middles_BN = torch.cat([tokens_T.float(), blocks_BCr.flatten(1), groups_BN], dim=1)
    return middles_BN.gather(1, windows.sources_BS)


def mixed_loss(
    core: Core,
    gist_net: GistNet,
    windows: MixedWindows,
    rows: tuple[Tensor, Tensor, Tensor],
    *,
    compiled: bool = True,
    tap_layer: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss of a batch of mixed windows.

    rows: ids, targets (int64) and weights (float32), each [B, T].

    Returns:
        The weighted mean over predicted positions, the loss of every position [B, T] (0 where none is predicted), the
        gist vectors [B, C, r, D], and the residual stream [B, S, D] after ``tap_layer``, if one is given.
    """
    ids_BT, targets_BT, weights_BT = rows
    num_rows, num_tokens = ids_BT.shape
    entries_BTD = core.embed(ids_BT)
    gists_BCrD = closed_gists(gist_net, windows, entries_BTD)
    inputs_BSD = window_entries(windows, entries_BTD, gists_BCrD, joined_gists(gist_net, windows, gists_BCrD))
    num_entries = inputs_BSD.shape[1]
    idle = -num_entries % ENTRIES_STEP  # nothing looks at what comes last
    output = core(
        torch.nn.functional.pad(inputs_BSD, (0, 0, 0, idle)),
        torch.nn.functional.pad(windows.mu_BS, (0, idle)),
        torch.nn.functional.pad(windows.sigma_BS, (0, idle)),
        tap_layer=tap_layer,
    )
    hidden_BSD = output.hidden_BTD[:, :num_entries]
    num_predicted = len(windows.positions_P)
    spare = -num_predicted % CHUNK_STEP  # the loss is compiled for few numbers of rows
    hidden_PD = torch.nn.functional.pad(hidden_BSD.flatten(0, 1)[windows.entries_P], (0, 0, 0, spare))
    targets_P, weights_P = (
        torch.nn.functional.pad(part_BT.flatten()[windows.positions_P], (0, spare))
        for part_BT in (targets_BT, weights_BT)
    )
    loss, losses_P = cross_entropy(hidden_PD, core.head.weight, targets_P, weights_P, compiled=compiled)
    losses_N = torch.zeros(num_rows * num_tokens, device=losses_P.device)
    losses_N[windows.positions_P] = losses_P[:num_predicted]
    tapped_BSD = None if output.tapped_BTD is None else output.tapped_BTD[:, :num_entries]
    return loss, losses_N.view(num_rows, num_tokens), gists_BCrD, tapped_BSD
