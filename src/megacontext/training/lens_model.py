"""Teaching LensNet from measured labels, and judging it by the block that it would open first.

Shape legend: C closed blocks, M of them measured, Q query tokens, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from megacontext.errors import InvalidValueError
from megacontext.nets.lens_net import FEATURES, KeyKind, LensNet
from megacontext.training.lens_labels import LensSample
from megacontext.training.scoring import Share, share

__all__ = ["LensTraining", "hit_report", "lens_loss", "lens_utilities", "stacked", "train_lens"]

Scorer = Callable[[LensSample], Tensor]


@dataclass(frozen=True, kw_only=True)
class LensTraining:
    """num_steps of ``samples_per_step`` samples; listwise: weight of finding the evidence against that of the measured
    nats; hide_lexical: share of samples whose lexical feature is blanked, so that the lens also learns to read."""

    num_steps: int = 2000
    samples_per_step: int = 32
    rate: float = 2e-3
    listwise: float = 0.05
    hide_lexical: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.samples_per_step < 1 or not 0 <= self.hide_lexical <= 1:
            raise InvalidValueError(
                f"num_steps {self.num_steps}, samples_per_step {self.samples_per_step} and hide_lexical "
                f"{self.hide_lexical} cannot train a lens: give counts of at least 1 and a share"
            )


def lens_utilities(lens: LensNet, sample: LensSample, *, kind: KeyKind) -> Tensor:
    """Utilities [..., C] in nats per entry, from the gists' hidden states or from the gist vectors alone."""
    vectors_CD = sample.hidden_CD if kind == "hidden" else sample.gists_CD
    matches_CH = lens.matches(*lens.queries(sample.query_QD.float()), lens.keys(vectors_CD.float(), kind=kind))
    utilities: Tensor = lens(matches_CH, sample.features_CF)
    return utilities


def stacked(samples: Sequence[LensSample]) -> LensSample:
    """Samples of equal shape as one, with a leading axis."""
    fields = [field.name for field in dataclasses.fields(LensSample)]
    return LensSample(**{name: torch.stack([getattr(sample, name) for sample in samples]) for name in fields})


def lens_loss(lens: LensNet, batch: LensSample, config: LensTraining) -> Tensor:
    """Regression of the measured nats and, where blocks state the answer, the log-loss of finding one, for both keys.

    ``batch`` has a leading axis, as ``stacked`` makes it.
    """
    losses = []
    for kind in ("hidden", "gist"):
        utilities_BC = lens_utilities(lens, batch, kind=kind)
        measured_BM = batch.utility_M.clamp(min=0)  # opening is never worth less than leaving closed
        said_BM = utilities_BC.gather(1, batch.measured_M)
        loss = nn.functional.smooth_l1_loss(said_BM, measured_BM, beta=0.02)
        log_shares_BC = (utilities_BC + 1e-9).log().log_softmax(-1)
        found_B = log_shares_BC.masked_fill(~batch.is_evidence_C, -torch.inf).logsumexp(-1)
        asked_B = batch.is_evidence_C.any(-1)
        if asked_B.any():
            loss = loss - config.listwise * found_B[asked_B].mean()
        losses.append(loss)
    return torch.stack(losses).mean()


def train_lens(lens: LensNet, samples: Sequence[LensSample], config: LensTraining) -> list[float]:
    """Train in place with AdamW and a linear decay; the loss of every hundredth step."""
    random = Random(config.seed)
    every = stacked(samples)
    fields = [field.name for field in dataclasses.fields(LensSample)]
    optimizer = torch.optim.AdamW(lens.parameters(), lr=config.rate, weight_decay=0.01)
    curve = []
    for step in range(config.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (step + 1) / 50) * (1 - step / config.num_steps)
        rows = torch.tensor(random.choices(range(len(samples)), k=config.samples_per_step))
        batch = LensSample(**{name: getattr(every, name)[rows] for name in fields})
        is_blank = torch.tensor([random.random() < config.hide_lexical for _ in rows])
        batch.features_CF[is_blank, :, FEATURES.index("lexical")] = 0  # indexing by rows made a copy
        loss = lens_loss(lens, batch, config)
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
    asked = [sample for sample in samples if sample.is_evidence_C.any()]
    report: dict[str, dict[str, Share]] = {}
    for name, scorer in scorers.items():
        ranks = [scorer(sample).argsort(descending=True) for sample in asked]
        report[name] = {
            f"within_{limit}": share(
                [bool(sample.is_evidence_C[order[:limit]].any()) for sample, order in zip(asked, ranks, strict=True)]
            )
            for limit in within
        }
    return report
