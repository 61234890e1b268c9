"""What a lens should have said: measured by opening blocks and looking at the next tokens.

A row stands in a window that shows its tail and gists of everything before; the lens is asked at moments of the tail.
Two things are measured, by the nets that the lens will serve:

- what opening a block alone saves on each token of the tail, by one forward with that block open. What any block would
  save (the median: raw text of the same kind helps a little, whichever it is) is taken off, because a budget is spent
  anyway and the question is on what. Once against a window where a gist of its own stands for every block, once against
  one whose far part is a single gist of level 2, as in a long memory. Opening any block of that far part also shows the
  gists of its siblings, so all of them save what those tell, and that stays: it is what reaching there is worth. With a
  median of its own, the second would be the first again, because they differ by one amount for all blocks of a moment;
- which block holds what is needed. Questions know it. In text it is decided where it is clear: on tokens that full
  context makes much cheaper, by the share that each block alone brings of that, less what any block brings. Elsewhere
  an opened block is lucky as often as not, and nothing is needed.

Shape legend: B rows, T tokens, C closed blocks, K tokens of a block, P before it, Q query tokens, D width, F features,
L levels.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.errors import CorruptionError
from megacontext.focus.lenses.features import (
    TOKENS_BEFORE,
    UNKNOWN,
    blocks_with_before,
    feature_columns,
)
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.shapes import FEATURES, STAKE_LEVELS
from megacontext.training.gist_cuts import UNJOINED
from megacontext.training.memory_windows import WindowRun, run_windows, scores_of
from megacontext.training.moments import Moment
from megacontext.training.tokens import first_line
from megacontext.training.windows import Window

__all__ = ["FAR_NATS", "MIN_NEEDED", "LensSample", "blocks_of_row", "features_of", "label", "read_samples", "sample_of"]

OPENED_ROWS = 14  # windows of one forward, of 350 entries each
FAR_NATS = 0.5  # what full context must save on a token of text for it to need something far away
LEAST_PART = 0.25  # of that, what a block alone must bring to count as holding it
MIN_NEEDED = 1.0  # nats over a horizon; where text needs less than that, it is likelier that nothing is needed
GROUP = 32  # blocks of one gist of level 2

_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
"""What pickle and torch raise for a file that was cut or changed."""


@dataclass(frozen=True, kw_only=True)
class LensSample:
    """What a lens sees and what it should have said.

    query_QD: the tapped layer's states of the query tokens; gists_CD: gist vectors as stored; features_CF; saved_LC:
    nats that opening each block saves where its own gist stands for it, and where one of level 2 does, NaN if not
    measured; evidence_C: how likely each block holds what is needed (what is lacking to 1: nothing is, or a block that
    is not in ``known_C``); known_C: bool, of which blocks anybody knows whether they are needed; told_C: bool, where
    the value that is asked for stands; query_ids_Q, blocks_CK: the tokens themselves, the latter [C, P + K]; asks:
    whether there is a question, bool [].
    """

    query_QD: Tensor  # noqa: N815 - shape suffix
    gists_CD: Tensor  # noqa: N815 - shape suffix
    features_CF: Tensor  # noqa: N815 - shape suffix
    saved_LC: Tensor  # noqa: N815 - shape suffix
    evidence_C: Tensor  # noqa: N815 - shape suffix
    known_C: Tensor  # noqa: N815 - shape suffix
    told_C: Tensor  # noqa: N815 - shape suffix
    query_ids_Q: Tensor  # noqa: N815 - shape suffix
    blocks_CK: Tensor  # noqa: N815 - shape suffix
    asks: Tensor


def read_samples(file: Path) -> list[tuple[str, LensSample]]:
    """Labelled samples that were kept as tables of tensors, each with its ``name``; CorruptionError where the file is
    cut off or holds something else."""
    try:
        tables = torch.load(file, weights_only=True)
        return [(str(table.pop("name")), LensSample(**table)) for table in tables]
    except _DAMAGE as error:
        raise CorruptionError(
            f"{file} is cut off or holds no samples ({first_line(error)}); leave out --keep, and all are labelled anew"
        ) from error


def features_of(moment: Moment, *, num_closed: int, block_tokens: int) -> Tensor:
    """Features [C, F] of the closed blocks before the tail, in the order of ``FEATURES``. Words in common are left out:
    they depend on which other blocks are looked at."""
    starts_C = np.arange(num_closed) * block_tokens
    return torch.from_numpy(
        feature_columns(
            FEATURES,
            levels_n=np.ones(num_closed, dtype=np.int64),
            widths_n=np.full(num_closed, block_tokens),
            distances_n=moment.query[1] - starts_C - block_tokens,
        )
    )


def blocks_of_row(tokens_T: npt.NDArray[np.int64], *, num_closed: int, block_tokens: int) -> Tensor:
    """The first blocks [C, P + K] of a row, each with the tokens before it, int32."""
    tokens_T = np.concatenate([np.full(TOKENS_BEFORE, UNKNOWN), tokens_T[: num_closed * block_tokens]])
    return torch.from_numpy(blocks_with_before(tokens_T, block_tokens=block_tokens).astype(np.int32))


def label(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[tuple[Window, Sequence[Moment]]],
    *,
    tail_tokens: int,
    measured: bool = True,
    block_tokens: int = 32,
) -> list[LensSample]:
    """A sample for each moment of each row, in order. Gists have width 1; measured: whether blocks are opened one by
    one, which plain text needs."""
    windows = [row for row, _ in rows]
    num_blocks = len(windows[0].tokens_T) // block_tokens
    num_closed = num_blocks - tail_tokens // block_tokens
    is_open_BN = np.zeros((len(rows), num_blocks), dtype=np.bool_)
    is_open_BN[:, num_closed:] = True
    run = run_windows(
        core,
        gist_net,
        windows,
        is_open_BN,
        block_tokens=block_tokens,
        gist_width=1,
        tap_layer=core.config.num_layers // 2,
    )
    if not measured:
        return [sample_of(row, moment, run, index) for index, (row, moments) in enumerate(rows) for moment in moments]
    before_BT = scores_of(core, run, windows).nats_BT

    def nats_of(is_open_BN: npt.NDArray[np.bool_], joined: tuple[int, int]) -> npt.NDArray[np.float32]:
        other = run_windows(core, gist_net, windows, is_open_BN, block_tokens=block_tokens, gist_width=1, joined=joined)
        return scores_of(core, other, windows).nats_BT

    needed_BT = before_BT - nats_of(np.ones_like(is_open_BN), UNJOINED)
    num_joined = num_closed // GROUP * GROUP
    joined_BT = nats_of(is_open_BN, (num_joined // GROUP, GROUP)) if num_joined else before_BT
    samples = []
    for index, (row, moments) in enumerate(rows):
        first = min(moment.horizon[0] for moment in moments)
        after_CT = _nats_opened(core, gist_net, row, run, index, first=first)
        saved_LCT = np.stack([before_BT[index] - after_CT, joined_BT[index] - after_CT])
        saved_LCT[1, num_joined:] = np.nan
        samples += [sample_of(row, moment, run, index, saved_LCT, needed_T=needed_BT[index]) for moment in moments]
    return samples


def _nats_opened(
    core: Core, gist_net: GistNet, row: Window, run: WindowRun, index: int, *, first: int
) -> npt.NDArray[np.float32]:
    """Nats [C, T] of a row's tokens after position ``first`` with one block open beside its tail."""
    block_tokens, num_closed = run.windows.block_tokens, run.gists_BCrD.shape[1]
    is_open_CN = np.zeros((num_closed, len(row.tokens_T) // block_tokens), dtype=np.bool_)
    is_open_CN[:, num_closed:] = True
    is_open_CN[np.arange(num_closed), np.arange(num_closed)] = True
    parts = []
    for block in range(0, num_closed, OPENED_ROWS):
        is_open_MN = is_open_CN[block : block + OPENED_ROWS]
        opened = run_windows(
            core,
            gist_net,
            [row] * len(is_open_MN),
            is_open_MN,
            block_tokens=block_tokens,
            gist_width=1,
            made_BCrD=run.gists_BCrD[index : index + 1].expand(len(is_open_MN), -1, -1, -1),
        )
        parts.append(scores_of(core, opened, [row] * len(is_open_MN), first=first).nats_BT)
    return np.concatenate(parts)


def sample_of(
    row: Window,
    moment: Moment,
    run: WindowRun,
    index: int,
    saved_LCT: npt.NDArray[np.float32] | None = None,
    *,
    needed_T: npt.NDArray[np.float32] | None = None,
) -> LensSample:
    """A sample, on the CPU, of row ``index`` of a run whose tail alone is open. saved_LCT: nats that opening a block
    saves on each token of the row; needed_T: nats that full context saves there."""
    assert run.tapped_BSD is not None
    num_closed, block_tokens = run.gists_BCrD.shape[1], run.windows.block_tokens
    shift = num_closed - num_closed * block_tokens  # from a position in the row to its entry in the window
    query, horizon = slice(moment.query[0] + shift, moment.query[1] + shift), slice(*moment.horizon)
    saved_LC = torch.full((STAKE_LEVELS, num_closed), torch.nan)
    evidence_C = torch.zeros(num_closed)
    told_C = torch.zeros(num_closed, dtype=torch.bool)
    told_C[list(moment.told)] = True
    if saved_LCT is not None:
        saved_LC = torch.from_numpy(saved_LCT[..., horizon].sum(-1))
        saved_LC = saved_LC - saved_LC[0].median()  # for both levels: what siblings tell is no luck
    if moment.evidence:
        evidence_C[list(moment.evidence)] = 1 / len(moment.evidence)
    elif saved_LCT is not None and needed_T is not None:
        evidence_C = torch.from_numpy(_holders(saved_LCT[0, :, horizon], needed_T[horizon])).float()
    return LensSample(
        query_QD=run.tapped_BSD[index, query].cpu().clone(),
        gists_CD=run.gists_BCrD[index, :, 0].cpu().clone(),
        features_CF=features_of(moment, num_closed=num_closed, block_tokens=block_tokens),
        saved_LC=saved_LC,
        evidence_C=evidence_C,
        known_C=torch.ones(num_closed, dtype=torch.bool),
        told_C=told_C,
        query_ids_Q=torch.from_numpy(row.tokens_T[slice(*moment.query)].astype(np.int32)),
        blocks_CK=blocks_of_row(row.tokens_T, num_closed=num_closed, block_tokens=block_tokens),
        asks=torch.tensor(bool(moment.evidence)),
    )


def _holders(saved_CH: npt.NDArray[np.float32], needed_H: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How likely each block [C] holds what a horizon of text needs, from what opening it saves on each of its H tokens
    and what full context does: every token that needs something far away counts as many nats as that saves, and they
    are shared among the blocks that bring a good part of them beyond what any block brings (the median)."""
    is_far_H = needed_H >= FAR_NATS
    saved_CH = np.minimum(saved_CH - np.maximum(np.median(saved_CH, axis=0), 0.0), needed_H)
    held_CH = np.where(is_far_H & (saved_CH >= LEAST_PART * needed_H), saved_CH, 0.0)
    total_H = held_CH.sum(0)
    nats_H = np.where(total_H > 0, needed_H, 0.0)
    by_block_C: npt.NDArray[np.float64] = (held_CH / np.maximum(total_H, 1e-9) * nats_H).sum(1)
    return by_block_C / max(MIN_NEEDED, float(nats_H.sum()))
