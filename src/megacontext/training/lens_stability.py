"""How steady a lens is: what it would open changes from moment to moment of a text, and every change costs an edit.

A lens that is right on average and opens other blocks at every refocus makes a session compute them again and again.
So the blocks that it values most are compared between moments that follow each other.

Shape legend: C closed blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from megacontext.nets.lens_net import LensNet
from megacontext.training.lens_labels import LensSample
from megacontext.training.lens_model import lens_utilities

__all__ = ["NUM_OPEN", "moments_by_text", "stability", "stability_figures"]

NUM_OPEN = 6  # blocks that stand open, as where text is judged


def moments_by_text(samples: Iterable[LensSample]) -> list[list[LensSample]]:
    """Samples that follow each other and look back at the same blocks, together: the moments of one text, in order."""
    texts: list[list[LensSample]] = []
    for sample in samples:
        if texts and torch.equal(texts[-1][-1].blocks_CK, sample.blocks_CK):
            texts[-1].append(sample)
        else:
            texts.append([sample])
    return texts


@torch.no_grad()
def stability(
    valued: Callable[[LensSample], Tensor], texts: Iterable[Sequence[LensSample]], *, num_open: int = NUM_OPEN
) -> dict[str, float]:
    """``swap_rate``: the share of the ``num_open`` blocks valued most that were not among them a moment before, mean
    over moments; ``residency``: for how many moments in a row a block stays among them, mean over such stays. A stay
    that a text begins or ends in counts as long as it is seen, so where nothing changes it is the length of the text.

    valued: nats [C] that each block of a sample is worth. Texts of a single moment say nothing; nothing is returned
    where there are no others.
    """
    swapped, stays = [], []
    for text in texts:
        if len(text) < 2:
            continue
        opened = [
            frozenset(valued(sample).topk(min(num_open, len(sample.gists_CD))).indices.tolist()) for sample in text
        ]
        swapped += [len(now - before) / len(now) for before, now in pairwise(opened)]
        num_begun = len(opened[0]) + sum(len(now - before) for before, now in pairwise(opened))
        stays.append((sum(map(len, opened)), num_begun))
    if not swapped:
        return {}
    return {
        "swap_rate": round(sum(swapped) / len(swapped), 4),
        "residency": round(sum(total for total, _ in stays) / sum(begun for _, begun in stays), 4),
    }


def stability_figures(lens: LensNet, texts: Iterable[Sequence[LensSample]]) -> dict[str, float]:
    """``swap_rate/plain`` and ``residency/plain`` of a lens on text, for a log."""
    return {f"{name}/plain": value for name, value in stability(partial(lens_utilities, lens), texts).items()}
