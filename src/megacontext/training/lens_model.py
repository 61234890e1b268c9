"""Teaching LensNet from measured labels, and judging it by the block that it would open first.

In a window it chooses among dozens of blocks, in a long memory among thousands: half of the steps add strangers, blocks
of other rows that are worth nothing to this one, known by their gists and words. Half of the strangers are lookalikes:
those of a large pool whose gists alone say most, as a session's scan would find them. What is asked then stands as far
away as they do, or distance alone would tell them apart.

Shape legend: B samples, C closed blocks, X strangers, N = C + X, Q query tokens, K tokens of a block, D width,
F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from random import Random
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import InvalidValueError, TrainingError
from megacontext.focus.lenses.features import (
    COMPARED_FEATURES,
    MAX_LOG2,
    TOKENS_BEFORE,
    feature_columns,
    lexical_scores,
    word_features,
)
from megacontext.nets.lens_net import LensNet, Queries, shares_of
from megacontext.nets.shapes import FEATURES, STAKE_LEVELS
from megacontext.training.lens_labels import LensSample
from megacontext.training.scoring import Share, share

__all__ = [
    "LensTraining",
    "Looked",
    "calibration",
    "calibration_figures",
    "hide_words_",
    "hit_report",
    "lens_logits",
    "lens_loss",
    "lens_utilities",
    "looked",
    "on_device",
    "stacked",
    "train_lens",
    "words_lens",
]

Scorer = Callable[[LensSample], Tensor]
Part = TypeVar("Part", LensSample, "Looked")
DISTANCE = FEATURES.index("log2_distance")
IN_COMMON = [FEATURES.index(name) for name in COMPARED_FEATURES]  # what is known of words in common
NEAREST, FARTHEST = 8.0, 20.0  # log2 of how far strangers stand


@dataclass(frozen=True, kw_only=True)
class LensTraining:
    """num_steps of ``samples_per_step`` samples; measured: weight of a squared nat of what is at stake against a nat of
    finding the evidence; hide_words: share of samples without words in common, so that the lens also learns to read;
    num_strangers: blocks of other rows beside each sample's own in every second step, half of them the likeliest of
    ``num_scanned`` drawn ones."""

    num_steps: int = 1000  # after more of them text that was measured is learnt by heart
    samples_per_step: int = 32
    rate: float = 2e-3
    measured: float = 0.02
    hide_words: float = 0.25
    num_strangers: int = 128
    num_scanned: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.num_steps, self.samples_per_step, self.num_strangers + 1, self.num_scanned)
        if min(counts) < 1 or not 0 <= self.hide_words <= 1:
            raise InvalidValueError(
                f"num_steps {self.num_steps}, samples_per_step {self.samples_per_step}, num_strangers "
                f"{self.num_strangers}, num_scanned {self.num_scanned} and hide_words {self.hide_words} cannot train a "
                "lens: give at least one step, sample and scanned block, no negative number of strangers, and a share"
            )


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is known of a sample's own blocks and then of strangers: features_NF, words_NQ4, and gists_XD of the
    strangers. May have a leading axis."""

    features_NF: Tensor  # noqa: N815 - shape suffix
    words_NQ4: Tensor  # noqa: N815 - shape suffix
    gists_XD: Tensor  # noqa: N815 - shape suffix


def looked(sample: LensSample, strangers: tuple[Tensor, Tensor] | None = None, random: Random | None = None) -> Looked:
    """Words are rare or common among all blocks together. strangers: gists [X, D] and tokens [X, K]."""
    features_NF, blocks, query = sample.features_CF.clone(), sample.blocks_CK.numpy(), sample.query_ids_Q.numpy()
    gists_XD = sample.gists_CD[:0]
    if strangers is not None and random is not None:
        gists_XD, blocks_XK = strangers
        if sample.asks:
            own = 2 ** (MAX_LOG2 * features_NF[:, DISTANCE]) + 2 ** random.uniform(NEAREST, FARTHEST)
            features_NF[:, DISTANCE] = own.log2() / MAX_LOG2
        num_strangers, num_read = blocks_XK.shape
        nearest = NEAREST if sample.asks else float(features_NF[:, DISTANCE].max() * MAX_LOG2)
        columns = feature_columns(
            FEATURES,
            levels_n=np.ones(num_strangers, dtype=np.int64),
            widths_n=np.full(num_strangers, num_read - TOKENS_BEFORE),
            distances_n=np.exp2([random.uniform(nearest, FARTHEST) for _ in range(num_strangers)]).astype(np.int64),
        )
        blocks = np.concatenate([blocks, blocks_XK.numpy()])
        features_NF = torch.cat([features_NF, torch.from_numpy(columns)])
    common = word_features(blocks, query)
    told = common.columns()
    features_NF[:, IN_COMMON] = torch.from_numpy(np.stack([told[name] for name in COMPARED_FEATURES], axis=1)).float()
    return Looked(features_NF=features_NF, words_NQ4=torch.from_numpy(common.words.by_token()), gists_XD=gists_XD)


def hide_words_(seen: Looked, is_hidden_B: Tensor) -> None:
    """Leave nothing of words in common in some of stacked ones."""
    seen.features_NF[is_hidden_B.nonzero(), :, IN_COMMON] = 0
    seen.words_NQ4[is_hidden_B] = 0


def lens_logits(lens: LensNet, sample: LensSample, *, seen: Looked | None = None) -> tuple[Queries, Tensor]:
    """What is asked, and the evidence [..., N] for a sample's own blocks and then for strangers, by their gists."""
    seen = seen or looked(sample)
    keys_NHE = lens.keys(torch.cat([sample.gists_CD, seen.gists_XD], dim=-2).float())
    queries = lens.queries(sample.query_QD.float())
    in_common_Nw = lens.in_common(queries, seen.words_NQ4)
    features_NF = seen.features_NF[..., lens.config.columns]
    logits_N: Tensor = lens(queries, lens.found(queries, keys_NHE), in_common_Nw, features_NF)
    return queries, logits_N


def lens_utilities(lens: LensNet, sample: LensSample, *, seen: Looked | None = None, level: int = 1) -> Tensor:
    """Nats [..., N] that opening each block is expected to save where a gist of ``level`` stands for it."""
    queries, logits_N = lens_logits(lens, sample, seen=seen)
    return shares_of(logits_N, queries.nothing) * queries.stakes_L[..., level - 1, None]


def words_lens(sample: LensSample, *, query_tokens: int = 32) -> Tensor:
    """What the words alone say [C]: BM25 of the last tokens."""
    blocks_CK = sample.blocks_CK[:, TOKENS_BEFORE:].numpy()
    return torch.from_numpy(lexical_scores(blocks_CK, sample.query_ids_Q[-query_tokens:].numpy()))


def stacked(parts: Sequence[Part]) -> Part:
    """Samples of equal shape as one, with a leading axis."""
    names = [field.name for field in dataclasses.fields(parts[0])]
    return type(parts[0])(**{name: torch.stack([getattr(part, name) for part in parts]) for name in names})


def on_device(part: Part, device: torch.device) -> Part:
    """The same there."""
    names = [field.name for field in dataclasses.fields(part)]
    return type(part)(**{name: getattr(part, name).to(device) for name in names})


def lens_loss(lens: LensNet, batch: LensSample, seen: Looked, *, measured: float) -> Tensor:
    """Loss of stacked samples. measured: as in ``LensTraining``.

    Which block is needed, or none, is learnt by the log-loss of the evidence. What is at stake is the least-squares
    factor between a block's probability and what opening it saved; probabilities do not follow it, because what opening
    a block saves is mostly luck. What no known block brings may be brought by one of the others as well as by none.
    """
    num_own = batch.evidence_C.shape[-1]
    is_measured_BLC = ~batch.saved_LC.isnan()
    nothing_B = 1 - batch.evidence_C.sum(-1)
    queries, logits_BN = lens_logits(lens, batch, seen=seen)
    logs_BN = torch.cat([queries.nothing[:, None], logits_BN], dim=-1).log_softmax(-1)
    logs_BC = logs_BN[:, 1 : num_own + 1]
    unknown_BC = logs_BC.masked_fill(batch.known_C, -torch.inf)
    nothing_known_B = torch.cat([logs_BN[:, :1], unknown_BC], dim=-1).logsumexp(-1)
    found_B = (batch.evidence_C * logs_BC).sum(-1) + nothing_B * nothing_known_B
    said_BLC = logs_BC.detach().exp()[:, None] * queries.stakes_L[..., None]
    missed_BLC = (said_BLC - batch.saved_LC.nan_to_num()).square() * is_measured_BLC
    return measured * missed_BLC.sum((-1, -2)).mean() - found_B.mean()


def train_lens(
    lens: LensNet,
    samples: Sequence[LensSample],
    config: LensTraining,
    weights: Sequence[float] | None = None,
    *,
    watch: Callable[[range], Iterable[int]] = iter,
    judge: Callable[[int], object] | None = None,
    judge_every: int = 250,
) -> list[float]:
    """Train in place with AdamW and a linear decay; the mean loss of every hundred steps. weights: how often each
    sample is drawn, beside the others; watch: what counts the steps, a progress bar for one; judge: called with the
    number of steps after every ``judge_every``. Raises TrainingError where a loss is no number."""
    random = Random(config.seed)
    indices = range(len(samples))
    optimizer = torch.optim.AdamW(lens.parameters(), lr=config.rate, weight_decay=0.01)
    losses: list[float] = []
    for step in watch(range(config.num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (step + 1) / 50) * (1 - step / config.num_steps)
        chosen = [samples[index] for index in random.choices(indices, weights, k=config.samples_per_step)]
        strangers: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(chosen)
        if config.num_strangers and step % 2 == 0:
            pool = _drawn(samples, max(config.num_scanned, config.num_strangers), random)
            strangers = _lookalikes(lens, chosen, pool, config.num_strangers, random)
        seen = stacked([looked(sample, some, random) for sample, some in zip(chosen, strangers, strict=True)])
        hide_words_(seen, torch.tensor([random.random() < config.hide_words for _ in chosen]))
        loss = lens_loss(lens, stacked(chosen), seen, measured=config.measured)
        if not loss.isfinite():
            asked = sorted({"questions" if sample.asks else "text" for sample in chosen})
            raise TrainingError(
                f"step {step}: the lens's loss is {loss.item()} on {len(chosen)} samples of {' and '.join(asked)}; the "
                "model's own lens is as it was: take another seed, or a lower rate in LensTraining"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if judge is not None and (step + 1) % judge_every == 0:
            judge(step + 1)
    return [sum(part) / len(part) for start in range(0, len(losses), 100) if (part := losses[start : start + 100])]


def _drawn(samples: Sequence[LensSample], count: int, random: Random) -> tuple[Tensor, Tensor]:
    """Gists and tokens of blocks of any samples: among thousands, hardly ever a sample's own."""
    picked = [(random.choice(samples), random.random()) for _ in range(count)]
    indices = [(sample, int(place * len(sample.blocks_CK))) for sample, place in picked]
    return (
        torch.stack([sample.gists_CD[index] for sample, index in indices]),
        torch.stack([sample.blocks_CK[index] for sample, index in indices]),
    )


@torch.no_grad()
def _lookalikes(
    lens: LensNet, chosen: Sequence[LensSample], pool: tuple[Tensor, Tensor], count: int, random: Random
) -> list[tuple[Tensor, Tensor]]:
    """Strangers for each sample: half of them those of the pool whose gists say most, none of them its own."""
    gists_PD, blocks_PK = pool
    keys_PHE = lens.keys(gists_PD.float())
    features_PF = torch.from_numpy(
        feature_columns(
            lens.config.features,
            levels_n=np.ones(len(gists_PD), dtype=np.int64),
            widths_n=np.full(len(gists_PD), blocks_PK.shape[-1] - TOKENS_BEFORE),
            distances_n=np.full(len(gists_PD), int(2 ** ((NEAREST + FARTHEST) / 2))),
        )
    )
    told_P = [block.tobytes() for block in blocks_PK[:, TOKENS_BEFORE:].numpy()]
    found = []
    for sample in chosen:
        own = {block.tobytes() for block in sample.blocks_CK[:, TOKENS_BEFORE:].numpy()}
        is_own_P = torch.tensor([told in own for told in told_P])
        queries = lens.queries(sample.query_QD.float())
        logits_P = lens(queries, lens.found(queries, keys_PHE), None, features_PF)
        free = (~is_own_P).nonzero()[:, 0].tolist()
        likely = logits_P.masked_fill(is_own_P, -torch.inf).topk(min(len(free), count // 2)).indices
        indices = torch.cat(
            [likely, torch.tensor(random.sample(free, min(len(free), count - count // 2)), dtype=torch.int64)]
        )
        found.append((gists_PD[indices], blocks_PK[indices]))
    return found


@torch.no_grad()
def hit_report(
    scorers: dict[str, Scorer], samples: Sequence[LensSample], *, within: Sequence[int] = (1, 4)
) -> dict[str, dict[str, Share]]:
    """How often a block of the evidence (``within``), and one in which the value itself stands (``told``), is among the
    first ones that a scorer would open."""
    asked = [sample for sample in samples if sample.asks]
    report: dict[str, dict[str, Share]] = {}
    wanted = {
        "within": [sample.evidence_C > 0 for sample in asked],
        "told": [sample.told_C for sample in asked],
    }
    for scorer_name, scorer in scorers.items():
        ranks = [scorer(sample).argsort(descending=True) for sample in asked]
        report[scorer_name] = {
            f"{name}_{limit}": share(
                [bool(blocks_C[order[:limit]].any()) for blocks_C, order in zip(blocks, ranks, strict=True)]
            )
            for name, blocks in wanted.items()
            for limit in within
        }
    return report


@torch.no_grad()
def calibration(lens: LensNet, samples: Sequence[LensSample], *, num_bins: int = 5) -> dict[str, dict[str, Any]]:
    """How what a lens says of measured blocks compares with what opening them saved, by the level of the gist that
    stood for them.

    ``correlation`` (Pearson) over all blocks, None where all are alike; ``agreement``: how often the block it values
    most saved most; ``bins``: blocks by what was said, each holding an equal part of its sum, with the means of both in
    nats.
    """
    return {
        f"level {level}": _calibration_at(lens, samples, level=level, num_bins=num_bins)
        for level in range(1, STAKE_LEVELS + 1)
    }


def calibration_figures(lens: LensNet, samples: Mapping[str, Sequence[LensSample]]) -> dict[str, float]:
    """``correlation/KIND/level_L`` and ``agreement/KIND/level_L`` of ``calibration``, for a log; what nobody measured
    is left out."""
    figures = {}
    for kind, some in samples.items():
        for name, one in calibration(lens, some, num_bins=1).items():
            if one["correlation"] is not None:
                label = f"{kind}/{name.replace(' ', '_')}"
                figures[f"correlation/{label}"] = one["correlation"]
                figures[f"agreement/{label}"] = one["agreement"]["accuracy"]
    return figures


def _calibration_at(lens: LensNet, samples: Sequence[LensSample], *, level: int, num_bins: int) -> dict[str, Any]:
    said, saved, agreed = [], [], []
    for sample in samples:
        saved_C = sample.saved_LC[level - 1]
        is_measured_C = ~saved_C.isnan()
        said_C = lens_utilities(lens, sample, level=level)[is_measured_C]
        if len(said_C):
            said.append(said_C)
            saved.append(saved_C[is_measured_C])
            agreed.append(bool(said[-1].argmax() == saved[-1].argmax()))
    if not said:
        return {"correlation": None, "agreement": None, "bins": []}
    said_n, saved_n = torch.cat(said), torch.cat(saved)
    order = said_n.argsort()
    part_n = (said_n[order].cumsum(0) / said_n.sum() * num_bins).long().clamp(max=num_bins - 1)
    bins = [
        {
            "blocks": len(some),
            "said": round(float(said_n[some].mean()), 5),
            "saved": round(float(saved_n[some].mean()), 5),
        }
        for index in range(num_bins)
        if len(some := order[part_n == index])
    ]
    correlation = float(torch.corrcoef(torch.stack([said_n, saved_n]))[0, 1])
    return {
        "correlation": round(correlation, 4) if isfinite(correlation) else None,
        "agreement": share(agreed),
        "bins": bins,
    }
