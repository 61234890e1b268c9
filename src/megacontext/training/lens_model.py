"""Teaching LensNet from measured labels, and judging it by the block that it would open first.

In a window it chooses among dozens of blocks, in a long memory among thousands: half of the steps add strangers, blocks
of other rows that are worth nothing to this one, known by their gists alone.

Shape legend: C closed blocks, M of them measured, X strangers, Q query tokens, K tokens of a block, D width,
F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import feature_columns, lexical_scores
from megacontext.nets.lens_net import FEATURES, KeyKind, LensNet
from megacontext.training.lens_labels import LensSample
from megacontext.training.scoring import Share, share

__all__ = [
    "LensTraining",
    "Strangers",
    "calibration",
    "hit_report",
    "lens_loss",
    "lens_utilities",
    "stacked",
    "strangers_of",
    "train_lens",
]

Part = TypeVar("Part", LensSample, "Strangers")
Scorer = Callable[[LensSample], Tensor]


@dataclass(frozen=True, kw_only=True)
class LensTraining:
    """num_steps of ``samples_per_step`` samples; listwise: weight of finding the evidence against that of the measured
    nats; hide_lexical: share of samples whose lexical feature is blanked, so that the lens also learns to read;
    num_strangers: blocks of other rows beside each sample's own in every second step."""

    num_steps: int = 2400
    samples_per_step: int = 32
    rate: float = 2e-3
    listwise: float = 0.05
    hide_lexical: float = 0.3
    num_strangers: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.num_steps, self.samples_per_step, self.num_strangers + 1)
        if min(counts) < 1 or not 0 <= self.hide_lexical <= 1:
            raise InvalidValueError(
                f"num_steps {self.num_steps}, samples_per_step {self.samples_per_step}, num_strangers "
                f"{self.num_strangers} and hide_lexical {self.hide_lexical} cannot train a lens: give at least one "
                "step and sample, no negative number of strangers, and a share"
            )


def lens_utilities(lens: LensNet, sample: LensSample, *, kind: KeyKind) -> Tensor:
    """Utilities [..., C] in nats per entry, from the gists' hidden states or from the gist vectors alone."""
    vectors_CD = sample.hidden_CD if kind == "hidden" else sample.gists_CD
    matches_CH = lens.matches(*lens.queries(sample.query_QD.float()), lens.keys(vectors_CD.float(), kind=kind))
    utilities: Tensor = lens(matches_CH, sample.features_CF)
    return utilities


@dataclass(frozen=True, kw_only=True)
class Strangers:
    """Blocks of other samples beside one's own: gists_XD, features_XF, and own_CF, features of the sample's own blocks
    when words are rare or common among all of them together. May have a leading axis."""

    gists_XD: Tensor  # noqa: N815 - shape suffix
    features_XF: Tensor  # noqa: N815 - shape suffix
    own_CF: Tensor  # noqa: N815 - shape suffix


def strangers_of(sample: LensSample, others: Sequence[LensSample], count: int, random: Random) -> Strangers:
    """``count`` blocks of other samples, at distances of up to a million tokens."""
    picked = [(other := random.choice(others), random.randrange(len(other.blocks_CK))) for _ in range(count)]
    blocks = torch.cat([sample.blocks_CK, torch.stack([other.blocks_CK[index] for other, index in picked])])
    lexical = lexical_scores(blocks.numpy(), sample.query_ids_Q.numpy())
    num_own, block_tokens = sample.blocks_CK.shape
    features_XF = feature_columns(
        FEATURES,
        levels_n=np.ones(count, dtype=np.int64),
        widths_n=np.full(count, block_tokens),
        distances_n=np.exp2([random.uniform(8, 20) for _ in picked]).astype(np.int64),
    )
    column, best = FEATURES.index("lexical"), max(1e-9, float(lexical.max()))
    features_XF[:, column] = lexical[num_own:] / best
    own_CF = sample.features_CF.clone()
    own_CF[:, column] = torch.from_numpy(lexical[:num_own] / best).float()
    return Strangers(
        gists_XD=torch.stack([other.gists_CD[index] for other, index in picked]),
        features_XF=torch.from_numpy(features_XF),
        own_CF=own_CF,
    )


def stacked(parts: Sequence[Part]) -> Part:
    """Samples of equal shape as one, with a leading axis."""
    names = [field.name for field in dataclasses.fields(parts[0])]
    return type(parts[0])(**{name: torch.stack([getattr(part, name) for part in parts]) for name in names})


def _taken(every: LensSample, rows: Sequence[int]) -> LensSample:
    """Some rows of stacked samples."""
    index = torch.tensor(rows)
    names = [field.name for field in dataclasses.fields(LensSample)]
    return LensSample(**{name: getattr(every, name)[index] for name in names})


def lens_loss(lens: LensNet, batch: LensSample, config: LensTraining, strangers: Strangers | None = None) -> Tensor:
    """Regression of the measured nats and the log-loss of finding what blocks hold of what is asked, for both keys.

    ``batch`` and ``strangers`` have a leading axis, as ``stacked`` makes it. Strangers are judged by their gists, save
    nothing, and may not be found.
    """
    losses = []
    strange_BX = batch.utility_M[:, :0]
    if strangers is not None:
        batch = dataclasses.replace(batch, features_CF=strangers.own_CF)
        keys_BHXE = lens.keys(strangers.gists_XD.float(), kind="gist")
        matches_BXH = lens.matches(*lens.queries(batch.query_QD.float()), keys_BHXE)
        strange_BX = lens(matches_BXH, strangers.features_XF)
    for kind in ("hidden", "gist"):
        utilities_BC = lens_utilities(lens, batch, kind=kind)
        measured_BM = batch.utility_M.clamp(min=0)  # opening is never worth less than leaving closed
        said_BM = utilities_BC.gather(1, batch.measured_M)
        loss = nn.functional.smooth_l1_loss(said_BM, measured_BM, beta=0.02)
        if strangers is not None:
            loss = loss + nn.functional.smooth_l1_loss(strange_BX, torch.zeros_like(strange_BX), beta=0.02)
        log_shares_BN = (torch.cat([utilities_BC, strange_BX], dim=1) + 1e-9).log().log_softmax(-1)
        found_B = (batch.evidence_C * log_shares_BN[:, : batch.evidence_C.shape[1]]).sum(-1)
        asked_B = batch.evidence_C.sum(-1)
        if asked_B.any():
            loss = loss - config.listwise * found_B.sum() / asked_B.sum()
        losses.append(loss)
    return torch.stack(losses).mean()


def train_lens(lens: LensNet, samples: Sequence[LensSample], config: LensTraining) -> list[float]:
    """Train in place with AdamW and a linear decay; the loss of every hundredth step."""
    random = Random(config.seed)
    every = stacked(samples)
    strange = None
    if config.num_strangers and len(samples) > 1:
        strange = [strangers_of(sample, samples, config.num_strangers, random) for sample in samples]
    optimizer = torch.optim.AdamW(lens.parameters(), lr=config.rate, weight_decay=0.01)
    column = FEATURES.index("lexical")
    curve = []
    for step in range(config.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (step + 1) / 50) * (1 - step / config.num_steps)
        rows = random.choices(range(len(samples)), k=config.samples_per_step)
        batch = _taken(every, rows)
        among = None if strange is None or step % 2 else stacked([strange[row] for row in rows])
        is_blank = torch.tensor([random.random() < config.hide_lexical for _ in rows])
        for features in [batch.features_CF] + ([among.own_CF, among.features_XF] if among else []):
            features[is_blank, :, column] = 0  # taking rows made copies
        loss = lens_loss(lens, batch, config, among)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            curve.append(float(loss.detach()))
    return curve


@torch.no_grad()
def hit_report(
    scorers: dict[str, Scorer], samples: Sequence[LensSample], *, within: Sequence[int] = (1, 4)
) -> dict[str, dict[str, Share]]:
    """How often a block that states the answer is among the first ones a scorer would open."""
    asked = [sample for sample in samples if sample.evidence_C.any()]
    report: dict[str, dict[str, Share]] = {}
    for name, scorer in scorers.items():
        ranks = [scorer(sample).argsort(descending=True) for sample in asked]
        report[name] = {
            f"within_{limit}": share(
                [bool(sample.evidence_C[order[:limit]].any()) for sample, order in zip(asked, ranks, strict=True)]
            )
            for limit in within
        }
    return report


@torch.no_grad()
def calibration(
    lens: LensNet, samples: Sequence[LensSample], *, kind: KeyKind = "hidden", num_bins: int = 5
) -> dict[str, Any]:
    """How what a lens says of the measured blocks compares with what opening them saved.

    ``correlation`` (Pearson) over all measured blocks; ``agreement``: how often the block it values most saved most;
    ``bins``: measured blocks in equal numbers by what was said, with the means of both in nats per entry.
    """
    said, saved, agreed = [], [], []
    for sample in samples:
        said_M = lens_utilities(lens, sample, kind=kind)[sample.measured_M]
        said.append(said_M)
        saved.append(sample.utility_M)
        agreed.append(bool(said_M.argmax() == sample.utility_M.argmax()))
    said_n, saved_n = torch.cat(said), torch.cat(saved)
    order = said_n.argsort()
    bins = [
        {"said": round(float(said_n[part].mean()), 5), "saved": round(float(saved_n[part].mean()), 5)}
        for part in order.chunk(num_bins)
    ]
    correlation = float(torch.corrcoef(torch.stack([said_n, saved_n]))[0, 1])
    return {"correlation": round(correlation, 4), "agreement": share(agreed), "bins": bins}
