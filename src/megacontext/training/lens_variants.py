"""What a lens should have said, measured in the forward pass that core and GistNet learn from.

A batch may show each of its rows in several windows, which differ in the blocks that are open (``GistCut.variants``).
What the tail's tokens cost in one and in another tells what opening blocks saves, and no forward is taken for it:

- questions know their evidence;
- text: where some windows know a token much better than the others do, the block that it needs is open in all of the
  first and in none of the others. These candidates share what they save. Of a block that is open in no window nobody
  knows whether it is needed: the lens may think of it what it likes;
- what opening a block saves: the mean of the windows where it is closed less that of those where it is open. What it
  saves where a gist of level 2 stands for it is not measured, and taken for the same.

Only legal edits count: blocks of the tail and those joined to a gist of level 2 are never opened, and say nothing.
Opening blocks one by one (``lens_labels.label``) tells more of a row, and takes a forward for each of its blocks.

Shape legend: B windows, V of each row, T tokens, C blocks that may be opened, D width, S entries, H tokens of a
horizon.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.nets.shapes import STAKE_LEVELS
from megacontext.training.curriculum import Batch
from megacontext.training.lens_labels import FAR_NATS, MIN_NEEDED, LensSample, blocks_of_row, features_of

__all__ = ["candidates", "differences", "variant_samples"]


def variant_samples(batch: Batch, losses_BT: Tensor, gists_BCrD: Tensor, tapped_BSD: Tensor) -> list[LensSample]:
    """A sample for each moment of each row of a batch with variants, on the CPU, nothing of it differentiable.

    losses_BT: of every position; gists_BCrD: of the closed blocks of each window; tapped_BSD: the states that ask.
    """
    windows, cut = batch.mixed, batch.kind.gists
    assert windows is not None
    assert cut is not None
    num_windows, num_tokens = batch.ids_BT.shape
    num_before = num_tokens // windows.block_tokens - cut.num_tail
    is_open_BC = torch.ones(num_windows, num_before, dtype=torch.bool)
    is_open_BC.scatter_(1, windows.closed_BC.cpu(), torch.zeros_like(windows.closed_BC, device="cpu", dtype=torch.bool))
    losses_BT, tapped_BSD = losses_BT.detach().cpu(), tapped_BSD.detach().cpu()
    gists_BCD = gists_BCrD.detach()[:, :, 0].cpu()
    slots_BC = (~is_open_BC).cumsum(1) - 1  # of each closed block among the closed ones
    first_legal = windows.joined[0] * windows.joined[1]
    samples = []
    for row, moments in enumerate(batch.moments):
        first = row * cut.variants
        of_row = slice(first, first + cut.variants)
        is_open_VC = is_open_BC[of_row].numpy()
        closed_in_C = torch.from_numpy(first + is_open_VC.argmin(0))
        tokens_T = batch.ids_BT[first].cpu().numpy()
        asking = first + int(tokens_T.sum()) % cut.variants  # the window whose states ask, at all moments of the row
        gists_CD = gists_BCD[closed_in_C, slots_BC[closed_in_C, torch.arange(num_before)]]
        blocks_CK = blocks_of_row(tokens_T, num_closed=num_before, block_tokens=windows.block_tokens)
        for moment in moments:
            if any(block < first_legal for block in moment.evidence):
                continue  # what is asked for cannot be opened here
            nats_VH = losses_BT[of_row, slice(*moment.horizon)].numpy()
            saved_C = torch.from_numpy(differences(nats_VH.sum(1), is_open_VC))
            told_C = torch.zeros(num_before, dtype=torch.bool)
            told_C[list(moment.told)] = True
            if moment.evidence:
                evidence_C, known_C = torch.zeros(num_before), torch.ones(num_before, dtype=torch.bool)
                evidence_C[list(moment.evidence)] = 1 / len(moment.evidence)
            else:
                evidence_C = torch.from_numpy(candidates(nats_VH, is_open_VC)).float()
                known_C = torch.from_numpy(is_open_VC.any(0))
            entries = slice(*(tapped_BSD.shape[1] - num_tokens + place for place in moment.query))
            features_CF = features_of(moment, num_closed=num_before, block_tokens=windows.block_tokens)
            samples.append(
                LensSample(
                    query_QD=tapped_BSD[asking, entries],
                    gists_CD=gists_CD[first_legal:],
                    features_CF=features_CF[first_legal:],
                    saved_LC=(saved_C - saved_C.nanmedian())[first_legal:].expand(STAKE_LEVELS, -1).clone(),
                    evidence_C=evidence_C[first_legal:],
                    known_C=known_C[first_legal:],
                    told_C=told_C[first_legal:],
                    query_ids_Q=torch.from_numpy(tokens_T[slice(*moment.query)].astype(np.int32)),
                    blocks_CK=blocks_CK[first_legal:],
                    asks=torch.tensor(bool(moment.evidence)),
                )
            )
    return samples


def differences(nats_V: npt.NDArray[np.float32], is_open_VC: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """What the windows with each block closed cost more [C] than those with it open, means of both; NaN where there are
    not both. Where windows are drawn at random, that is on average C / (C - 1) times what a block saves itself, less
    the same amount for all of them."""
    num_open_C = is_open_VC.sum(0)
    num_closed_C = len(nats_V) - num_open_C
    opened_C, all_nats = nats_V @ is_open_VC, nats_V.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        saved_C: npt.NDArray[np.float32] = (all_nats - opened_C) / num_closed_C - opened_C / num_open_C
    return np.where((num_open_C > 0) & (num_closed_C > 0), saved_C, np.nan).astype(np.float32)


def candidates(nats_VH: npt.NDArray[np.float32], is_open_VC: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """How likely each block [C] holds what a horizon of text needs.

    The windows fall into those that know a token and those that do not where their nats lie farthest apart. If the
    means of both differ by ``FAR_NATS``, the token counts as many nats as that is, shared among the blocks that are
    open in all windows that know it and in none that does not.
    """
    sorted_VH = np.sort(nats_VH, axis=0)
    last_H = np.diff(sorted_VH, axis=0).argmax(0)  # of those that know it
    is_found_VH = nats_VH <= np.take_along_axis(sorted_VH, last_H[None], axis=0)
    num_found_H = is_found_VH.sum(0)
    found_H = (nats_VH * is_found_VH).sum(0) / num_found_H
    others_H = (nats_VH * ~is_found_VH).sum(0) / np.maximum(len(nats_VH) - num_found_H, 1)
    gap_H = np.where(num_found_H < len(nats_VH), others_H - found_H, 0.0)
    is_everywhere_CH = ~(~is_open_VC.T[..., None] & is_found_VH[None]).any(1)
    is_nowhere_else_CH = ~(is_open_VC.T[..., None] & ~is_found_VH[None]).any(1)
    held_CH = (is_everywhere_CH & is_nowhere_else_CH & (gap_H >= FAR_NATS)).astype(np.float64)
    total_H = held_CH.sum(0)
    nats_H = np.where(total_H > 0, gap_H, 0.0)
    by_block_C: npt.NDArray[np.float64] = (held_CH / np.maximum(total_H, 1.0) * nats_H).sum(1)
    return by_block_C / max(MIN_NEEDED, float(nats_H.sum()))
