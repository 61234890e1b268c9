"""A lens that is taught beside core and GistNet: what a configuration may say of it, its loss, and what a log tells."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from megacontext.errors import InvalidValueError
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import QUERY_TOKENS
from megacontext.training.curriculum import Batch
from megacontext.training.lens_labels import LensSample
from megacontext.training.lens_model import calibration_figures, hide_words_, lens_loss, looked, on_device, stacked
from megacontext.training.lens_stability import moments_by_text, stability_figures
from megacontext.training.lens_variants import variant_samples
from megacontext.training.moments import HORIZON_TOKENS
from megacontext.training.settings import Settings
from megacontext.values import number

__all__ = ["CotrainedLens", "LensLearning", "read_lens"]

BLANK_EVERY = 4  # so many samples are shown with the words in common, but for one: so it learns to read, too


@dataclass(frozen=True, kw_only=True)
class LensLearning:
    """How a lens is learned beside core and GistNet. weight: of its loss, whose gradient counts for the clipped norm;
    measured: of a squared nat of what is at stake against a nat of finding the evidence."""

    weight: float = 0.1
    measured: float = 0.02


class CotrainedLens:
    """Its net, how it is taught, and what it was last asked. It moves nothing but itself."""

    def __init__(self, net: LensNet, config: LensLearning) -> None:
        self.net, self.config = net, config
        self.samples: list[LensSample] = []
        """Those of the newest batch that had some, on the CPU."""

    def loss(self, batch: Batch, losses_BT: Tensor, gists_BCrD: Tensor, tapped_BSD: Tensor) -> Tensor:
        """The weighted loss of what it says at the moments of a batch with variants, by what their losses show.
        Arguments as of ``variant_samples``."""
        samples = variant_samples(batch, losses_BT, gists_BCrD, tapped_BSD)
        if not samples:  # its gradients are there all the same: a team takes the mean of everybody's
            return torch.stack([weight.sum() for weight in self.net.parameters()]).sum() * 0.0
        self.samples = samples
        seen = stacked([looked(sample) for sample in samples])
        hide_words_(seen, torch.arange(len(samples)) % BLANK_EVERY == 0)
        device = losses_BT.device
        loss = lens_loss(
            self.net, on_device(stacked(samples), device), on_device(seen, device), measured=self.config.measured
        )
        return self.config.weight * loss

    def figures(self) -> dict[str, float]:
        """Of the newest moments: ``correlation/KIND/level_1``, ``agreement/KIND/level_1``, ``swap_rate/plain`` and
        ``residency/plain``. ``recipes/core/lens.py`` logs the same of held-out rows, whose blocks were opened one by
        one."""
        net = copy.deepcopy(self.net).cpu()
        of_kind = {
            "plain": [sample for sample in self.samples if not sample.asks],
            "questions": [sample for sample in self.samples if sample.asks],
        }
        return calibration_figures(net, of_kind) | stability_figures(net, moments_by_text(of_kind["plain"]))


def read_lens(settings: Settings) -> LensLearning | None:
    """The `[lens]` table, within limits, if there is one; what it needs has to be there, and nothing that it alone
    looks at where there is none."""
    stages = settings.stages()
    told = {
        f"{settings.path}: [[stage]] {stage.name!r}, batch {kind.name!r}": kind.gists
        for stage in stages
        for kind in stage.batches
        if kind.gists is not None and kind.gists.variants > 1
    }
    if "lens" not in settings:
        for where, cut in told.items():
            raise InvalidValueError(
                f"{where} has {cut.variants} variants of each row, which only a lens compares; add [lens], or leave "
                "variants out"
            )
        return None
    lens = settings.read("lens", LensLearning)
    number(f"{settings.path}: [lens] weight", lens.weight, above=0)
    number(f"{settings.path}: [lens] measured", lens.measured, least=0)
    if "gist_net" not in settings:
        raise InvalidValueError(f"{settings.path}: [lens] chooses among gists, but there is no [gist_net]; add it")
    if not told:
        raise InvalidValueError(
            f"{settings.path}: [lens] learns from rows that stand in several windows, but no batch has gists with "
            "variants above 1; give one, or leave [lens] out"
        )
    needed = QUERY_TOKENS + HORIZON_TOKENS
    for where, cut in told.items():
        for block_tokens, _ in cut.shapes:
            if cut.num_tail * block_tokens < needed:
                raise InvalidValueError(
                    f"{where} has a tail of {cut.num_tail} blocks of {block_tokens} tokens, which leaves a lens no "
                    f"room for {QUERY_TOKENS} tokens that ask and {HORIZON_TOKENS} after them; give num_tail at least "
                    f"{-(-needed // block_tokens)}"
                )
    return lens
