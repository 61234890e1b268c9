"""What a lens should have said: measured by opening blocks and looking at the next tokens.

Each sample is one row in a window that shows its tail and gists of everything before. The label of a block is what
opening it alone saves, in nats over the horizon per extra entry of budget: a counterfactual, taken from two real
forwards of the nets that the lens will serve. Facts have blocks that state the answer as well.

Real text has no such blocks, and one block alone saves little there. `attribute` measures what opening *everything*
saves on each token of the horizon, and gives it to the blocks that hold the token, the rarer the token the surer: two
forwards label every block at several places of a row, where counterfactuals take one for each.

Shape legend: B rows, T tokens, C closed blocks, M of them measured, K tokens of a block, Q query tokens, D width,
F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.focus.lenses.features import feature_columns, lexical_scores
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import FEATURES
from megacontext.training.memory_windows import WindowRun, run_windows, scores_of
from megacontext.training.windows import Window

__all__ = ["LensSample", "Moment", "attribute", "features_of", "holders", "measure", "moment_of"]

MIN_SAVED = 1.0  # nats over a horizon; where far context saves less, shares of it sum to less than 1


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a row's lens is asked. query: positions [start, stop) of the last tokens; horizon: positions whose next
    tokens count; evidence: the blocks that state what is asked, none for plain text."""

    query: tuple[int, int]
    horizon: tuple[int, int]
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LensSample:
    """What a lens sees and what it should have said.

    query_QD, hidden_CD: the tapped layer's states of the query tokens and of the gists; gists_CD: gist vectors as
    stored; features_CF; measured_M: indices among the closed blocks; utility_M: nats per entry; evidence_C: share of
    what is asked that each block holds (sums to 1 at most); query_ids_Q, blocks_CK: the tokens
    themselves.
    """

    query_QD: Tensor  # noqa: N815 - shape suffix
    hidden_CD: Tensor  # noqa: N815 - shape suffix
    gists_CD: Tensor  # noqa: N815 - shape suffix
    features_CF: Tensor  # noqa: N815 - shape suffix
    measured_M: Tensor  # noqa: N815 - shape suffix
    utility_M: Tensor  # noqa: N815 - shape suffix
    evidence_C: Tensor  # noqa: N815 - shape suffix
    query_ids_Q: Tensor  # noqa: N815 - shape suffix
    blocks_CK: Tensor  # noqa: N815 - shape suffix


def moment_of(
    row: Window, *, tail_tokens: int, block_tokens: int, query_tokens: int = 32, horizon_tokens: int = 64
) -> Moment | None:
    """The last question of a row whose evidence lies before the tail; for a row without facts its last tokens; None if
    a row asks only for what its tail shows."""
    num_tokens = len(row.tokens_T)
    first = num_tokens - tail_tokens
    if not row.answers:
        start = num_tokens - horizon_tokens
        return Moment(query=(start + 1 - query_tokens, start + 1), horizon=(start, num_tokens))
    for answer in sorted(row.answers, key=lambda answer: -answer.start):
        is_first_time = not any(other.fact == answer.fact and other.start < answer.start for other in row.answers)
        query = (answer.start + 1 - query_tokens, answer.start + 1)
        if query[0] >= first and is_first_time and all(stop <= first for _, stop in answer.evidence):
            blocks = {
                block
                for start, stop in answer.evidence
                for block in range(start // block_tokens, (stop - 1) // block_tokens + 1)
            }
            return Moment(query=query, horizon=(answer.start, answer.stop), evidence=tuple(sorted(blocks)))
    return None


def features_of(row: Window, moment: Moment, *, num_closed: int, block_tokens: int) -> Tensor:
    """Features [C, F] of the closed blocks before the tail, in the order of ``FEATURES``."""
    starts_C = np.arange(num_closed) * block_tokens
    blocks_CK = row.tokens_T[: num_closed * block_tokens].reshape(num_closed, block_tokens)
    return torch.from_numpy(
        feature_columns(
            FEATURES,
            levels_n=np.ones(num_closed, dtype=np.int64),
            widths_n=np.full(num_closed, block_tokens),
            distances_n=moment.query[1] - starts_C - block_tokens,
            lexical_n=lexical_scores(blocks_CK, row.tokens_T[slice(*moment.query)]),
        )
    )


def measure(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[tuple[Window, Moment]],
    *,
    tail_tokens: int,
    num_measured: int,
    block_tokens: int = 32,
    random: Random,
) -> list[LensSample]:
    """Labels of some blocks of each row: all evidence, the lexically best, and others at random. Gists of width 1."""
    windows = [row for row, _ in rows]
    num_blocks = len(windows[0].tokens_T) // block_tokens
    num_closed = num_blocks - tail_tokens // block_tokens
    tap_layer = core.config.num_layers // 2
    is_open_BN = np.zeros((len(rows), num_blocks), dtype=np.bool_)
    is_open_BN[:, num_closed:] = True
    closed = run_windows(
        core, gist_net, windows, is_open_BN, block_tokens=block_tokens, gist_width=1, tap_layer=tap_layer
    )
    before_BT = scores_of(core, closed, windows).nats_BT
    assert closed.tapped_BSD is not None
    samples = []
    for index, (row, moment) in enumerate(rows):
        features_CF = features_of(row, moment, num_closed=num_closed, block_tokens=block_tokens)
        lexical_C = features_CF[:, FEATURES.index("lexical")]
        best = lexical_C.argsort(descending=True)[: num_measured // 3].tolist()
        others = random.sample(range(num_closed), num_closed)
        chosen = list(dict.fromkeys([*moment.evidence, *best, *others]))[:num_measured]
        opened_MN = np.repeat(is_open_BN[index : index + 1], len(chosen), axis=0)
        opened_MN[np.arange(len(chosen)), chosen] = True
        opened = run_windows(
            core,
            gist_net,
            [row] * len(chosen),
            opened_MN,
            block_tokens=block_tokens,
            gist_width=1,
            made_BCrD=closed.gists_BCrD[index : index + 1].expand(len(chosen), -1, -1, -1),
        )
        after_MT = scores_of(core, opened, [row] * len(chosen)).nats_BT
        horizon = slice(*moment.horizon)
        saved_M = before_BT[index, horizon].sum() - after_MT[:, horizon].sum(1)
        evidence_C = torch.zeros(num_closed)
        evidence_C[list(moment.evidence)] = 1 / max(1, len(moment.evidence))
        samples.append(
            _sample(
                row,
                moment,
                closed,
                index,
                features_CF,
                measured_M=torch.tensor(chosen),
                utility_M=torch.from_numpy(saved_M / (block_tokens - 1)).float(),
                evidence_C=evidence_C,
            )
        )
    return samples


def _sample(
    row: Window, moment: Moment, run: WindowRun, index: int, features_CF: Tensor, **labels: Tensor
) -> LensSample:
    """A sample of row ``index`` of a run whose tail alone is open."""
    assert run.tapped_BSD is not None
    num_closed, block_tokens = run.gists_BCrD.shape[1], run.windows.block_tokens
    shift = num_closed - num_closed * block_tokens  # from a position in the row to its entry in the window
    query = slice(moment.query[0] + shift, moment.query[1] + shift)
    return LensSample(
        query_QD=run.tapped_BSD[index, query].clone(),
        hidden_CD=run.tapped_BSD[index, :num_closed].clone(),
        gists_CD=run.gists_BCrD[index, :, 0].clone(),
        features_CF=features_CF,
        query_ids_Q=torch.from_numpy(row.tokens_T[slice(*moment.query)].copy()),
        blocks_CK=torch.from_numpy(row.tokens_T[: num_closed * block_tokens].reshape(num_closed, -1).copy()),
        **labels,
    )


def attribute(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[Window],
    *,
    tail_tokens: int,
    num_measured: int,
    block_tokens: int = 32,
    horizon_tokens: int = 64,
    query_tokens: int = 32,
    random: Random,
) -> list[LensSample]:
    """Samples at every ``horizon_tokens`` of the tails of rows of text, labelled by what far context saves."""
    num_tokens = len(rows[0].tokens_T)
    num_blocks, num_closed = num_tokens // block_tokens, (num_tokens - tail_tokens) // block_tokens
    is_open_BN = np.zeros((len(rows), num_blocks), dtype=np.bool_)
    is_open_BN[:, num_closed:] = True
    closed = run_windows(
        core,
        gist_net,
        rows,
        is_open_BN,
        block_tokens=block_tokens,
        gist_width=1,
        tap_layer=core.config.num_layers // 2,
    )
    opened = run_windows(core, gist_net, rows, np.ones_like(is_open_BN), block_tokens=block_tokens, gist_width=1)
    saved_BT = scores_of(core, closed, rows).nats_BT - scores_of(core, opened, rows).nats_BT
    samples = []
    for index, row in enumerate(rows):
        blocks_CK = row.tokens_T[: num_closed * block_tokens].reshape(num_closed, block_tokens)
        for at in range(num_tokens - tail_tokens + horizon_tokens, num_tokens, horizon_tokens):
            moment = Moment(query=(at - query_tokens, at), horizon=(at - 1, at + horizon_tokens - 1))
            horizon = slice(*moment.horizon)
            saved_C = torch.from_numpy(holders(blocks_CK, row.targets_T[horizon], saved_BT[index, horizon]))
            best = saved_C.argsort(descending=True)[: num_measured // 2].tolist()
            others = random.sample(range(num_closed), num_closed)
            chosen = list(dict.fromkeys([*best, *others]))[:num_measured]
            samples.append(
                _sample(
                    row,
                    moment,
                    closed,
                    index,
                    features_of(row, moment, num_closed=num_closed, block_tokens=block_tokens),
                    measured_M=torch.tensor(chosen),
                    utility_M=(saved_C[chosen] / (block_tokens - 1)).float(),
                    evidence_C=(saved_C / saved_C.sum().clamp(min=MIN_SAVED)).float(),
                )
            )
    return samples


def holders(
    blocks_CK: npt.NDArray[np.integer], tokens_T: npt.NDArray[np.integer], saved_T: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Nats [C] that blocks are given: what far context saves on each token (losses count as nothing), in equal parts to
    the blocks that hold the token."""
    saved_C = np.zeros(len(blocks_CK))
    for token, saved in zip(tokens_T.tolist(), saved_T.tolist(), strict=True):
        holds_C = (blocks_CK == token).any(1)
        if saved > 0 and holds_C.any():
            saved_C += saved * holds_C / holds_C.sum()
    return saved_C
