"""Teaching LensNet from measured labels, and judging it by the block that it would open first.

In a window it chooses among dozens of blocks, in a long memory among thousands: half of the steps add strangers, blocks
of other rows that are worth nothing to this one, known by their gists and words. What is asked then stands as far away
as they do, or distance alone would tell them apart.

Shape legend: B samples, C closed blocks, X strangers, N = C + X, Q query tokens, K tokens of a block, D width,
F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import MAX_LOG2, feature_columns, lexical_scores, word_features
from megacontext.nets.lens_net import FEATURES, KeyKind, LensNet
from megacontext.training.lens_labels import LensSample
from megacontext.training.scoring import Share, share

__all__ = [
    "LensTraining",
    "Looked",
    "calibration",
    "hit_report",
    "lens_loss",
    "lens_utilities",
    "looked",
    "stacked",
    "train_lens",
    "words_lens",
]

Scorer = Callable[[LensSample], Tensor]
Part = TypeVar("Part", LensSample, "Looked")
LEXICAL, DISTANCE = FEATURES.index("lexical"), FEATURES.index("log2_distance")
NEAREST, FARTHEST = 8.0, 20.0  # log2 of how far strangers stand


@dataclass(frozen=True, kw_only=True)
class LensTraining:
    """num_steps of ``samples_per_step`` samples; measured: weight of the measured nats against that of finding the
    evidence; hide_words: share of samples without words in common, so that the lens also learns to read; num_strangers:
    blocks of other rows beside each sample's own in every second step."""

    num_steps: int = 3000
    samples_per_step: int = 32
    rate: float = 2e-3
    measured: float = 0.2
    hide_words: float = 0.25
    num_strangers: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.num_steps, self.samples_per_step, self.num_strangers + 1)
        if min(counts) < 1 or not 0 <= self.hide_words <= 1:
            raise InvalidValueError(
                f"num_steps {self.num_steps}, samples_per_step {self.samples_per_step}, num_strangers "
                f"{self.num_strangers} and hide_words {self.hide_words} cannot train a lens: give at least one "
                "step and sample, no negative number of strangers, and a share"
            )


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is known of a sample's own blocks and then of strangers: features_NF, words_NQ2, and gists_XD of the
    strangers. May have a leading axis."""

    features_NF: Tensor  # noqa: N815 - shape suffix
    words_NQ2: Tensor  # noqa: N815 - shape suffix
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
        num_strangers, block_tokens = blocks_XK.shape
        nearest = NEAREST if sample.asks else float(features_NF[:, DISTANCE].max() * MAX_LOG2)
        columns = feature_columns(
            FEATURES,
            levels_n=np.ones(num_strangers, dtype=np.int64),
            widths_n=np.full(num_strangers, block_tokens),
            distances_n=np.exp2([random.uniform(nearest, FARTHEST) for _ in range(num_strangers)]).astype(np.int64),
        )
        blocks = np.concatenate([blocks, blocks_XK.numpy()])
        features_NF = torch.cat([features_NF, torch.from_numpy(columns)])
    lexical_N, words_NQ2 = word_features(blocks, query)
    features_NF[:, LEXICAL] = torch.from_numpy(lexical_N / max(1e-9, lexical_N.max())).float()
    return Looked(features_NF=features_NF, words_NQ2=torch.from_numpy(words_NQ2), gists_XD=gists_XD)


def lens_utilities(lens: LensNet, sample: LensSample, *, kind: KeyKind, seen: Looked | None = None) -> Tensor:
    """Utilities [..., N] in nats per entry of a sample's own blocks, from the gists' hidden states or from the gist
    vectors alone, and then of strangers by their gists."""
    seen = seen or looked(sample)
    own_CD = sample.hidden_CD if kind == "hidden" else sample.gists_CD
    keys_HCE = lens.keys(own_CD.float(), kind=kind)
    keys_HXE = lens.keys(seen.gists_XD.float(), kind="gist")
    queries = lens.queries(sample.query_QD.float())
    matches_NM = lens.matches(queries, torch.cat([keys_HCE, keys_HXE], dim=-2), seen.words_NQ2)
    utilities_N: Tensor = lens(matches_NM, seen.features_NF)
    return utilities_N


def words_lens(sample: LensSample, *, query_tokens: int = 32) -> Tensor:
    """What the words alone say [C]: BM25 of the last tokens."""
    return torch.from_numpy(lexical_scores(sample.blocks_CK.numpy(), sample.query_ids_Q[-query_tokens:].numpy()))


def stacked(parts: Sequence[Part]) -> Part:
    """Samples of equal shape as one, with a leading axis."""
    names = [field.name for field in dataclasses.fields(parts[0])]
    return type(parts[0])(**{name: torch.stack([getattr(part, name) for part in parts]) for name in names})


def lens_loss(lens: LensNet, batch: LensSample, seen: Looked, config: LensTraining) -> Tensor:
    """Loss of stacked samples, for both kinds of keys.

    What was measured is met by the Poisson deviance, whose minimum is the mean at any scale: questions save fifty times
    what text does. Evidence is found by the log-loss of its share of all utilities. Strangers save nothing.
    """
    losses = []
    num_own, entries = batch.utility_C.shape[-1], batch.blocks_CK.shape[-1] - 1
    is_measured_BC = ~batch.utility_C.isnan()
    saved_BC = batch.utility_C.nan_to_num().clamp(min=0)  # opening is never worth less than leaving closed
    for kind in ("hidden", "gist"):
        said_BN = lens_utilities(lens, batch, kind=kind, seen=seen) + 1e-9
        logs_BN = said_BN.log()
        deviance_BC = (said_BN[:, :num_own] - saved_BC * logs_BN[:, :num_own]) * is_measured_BC
        deviance = entries * (deviance_BC.sum() + said_BN[:, num_own:].sum()) / len(said_BN)
        found_B = (batch.evidence_C * logs_BN.log_softmax(-1)[:, :num_own]).sum(-1)
        losses.append(config.measured * deviance - found_B.mean())
    return torch.stack(losses).mean()


def train_lens(
    lens: LensNet,
    samples: Sequence[LensSample],
    config: LensTraining,
    weights: Sequence[float] | None = None,
    *,
    watch: Callable[[range], Iterable[int]] = iter,
) -> list[float]:
    """Train in place with AdamW and a linear decay; the mean loss of every hundred steps. weights: how often each
    sample is drawn, beside the others; watch: what counts the steps, a progress bar for one."""
    random = Random(config.seed)
    indices = range(len(samples))
    optimizer = torch.optim.AdamW(lens.parameters(), lr=config.rate, weight_decay=0.01)
    losses: list[float] = []
    for step in watch(range(config.num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (step + 1) / 50) * (1 - step / config.num_steps)
        chosen = [samples[index] for index in random.choices(indices, weights, k=config.samples_per_step)]
        strangers = None
        if config.num_strangers and step % 2 == 0:
            strangers = _drawn(samples, config.num_strangers, random)
        seen = stacked([looked(sample, strangers, random) for sample in chosen])
        is_blank = torch.tensor([random.random() < config.hide_words for _ in chosen])
        seen.features_NF[is_blank, :, LEXICAL] = 0  # looking made copies
        seen.words_NQ2[is_blank] = 0
        loss = lens_loss(lens, stacked(chosen), seen, config)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
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
def hit_report(
    scorers: dict[str, Scorer], samples: Sequence[LensSample], *, within: Sequence[int] = (1, 4)
) -> dict[str, dict[str, Share]]:
    """How often a block that states the answer is among the first ones a scorer would open."""
    asked = [sample for sample in samples if sample.asks]
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
    """How what a lens says of measured blocks compares with what opening them saved.

    ``correlation`` (Pearson) over all blocks; ``agreement``: how often the block it values most saved most; ``bins``:
    blocks in equal numbers by what was said, with the means of both in nats per entry.
    """
    said, saved, agreed = [], [], []
    for sample in samples:
        said_C = lens_utilities(lens, sample, kind=kind)
        said.append(said_C)
        saved.append(sample.utility_C)
        agreed.append(bool(said_C.argmax() == sample.utility_C.argmax()))
    said_n, saved_n = torch.cat(said), torch.cat(saved)
    order = said_n.argsort()
    bins = [
        {"said": round(float(said_n[part].mean()), 5), "saved": round(float(saved_n[part].mean()), 5)}
        for part in order.chunk(num_bins)
    ]
    correlation = float(torch.corrcoef(torch.stack([said_n, saved_n]))[0, 1])
    return {"correlation": round(correlation, 4), "agreement": share(agreed), "bins": bins}
