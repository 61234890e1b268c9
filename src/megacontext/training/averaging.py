"""One model halfway between two: that which a run went on from, and that which it made.

Where both lie in one valley of the loss, what lies between them keeps what the first knew and has what the second
learnt (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). Two runs that share no weights to begin with
have no such valley in common, so shapes alone do not say that a mean is worth anything: it has to be measured.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from megacontext.bases.core_folder import CoreNets, read_core_folder
from megacontext.errors import InvalidValueError
from megacontext.training.tokens import read_tokenizer
from megacontext.values import number

__all__ = ["averaged"]

LEARNED = ("core", "gist_net")


def averaged(first: Path, second: Path, *, share: float) -> CoreNets:
    """The nets of two model folders, weight by weight ``(1 - share) * first + share * second``, in bfloat16.

    Summed in float32. A lens belongs to the nets that it was taught beside, so there is none. What both were taught
    counts as taught: all their shapes, and the longer windows.

    Raises InvalidValueError if share is not between 0 and 1, or the folders are of other shapes or tokenizers;
    BaseModelError if one of them is damaged.
    """
    number("share", share, least=0, most=1)
    nets, others = (
        read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"), with_lens=False)
        for folder in (first, second)
    )
    if read_tokenizer(first).get_vocab() != read_tokenizer(second).get_vocab():
        raise InvalidValueError(f"{first} and {second} have different tokenizers; give models of one training")
    means: dict[str, nn.Module] = {}
    for name in LEARNED:
        ours, theirs = getattr(nets, name), getattr(others, name)
        if (ours is None) != (theirs is None):
            without = first if ours is None else second
            raise InvalidValueError(
                f"{without} has no {name}, but the other model has one; give models of one training"
            )
        if ours is None:
            continue
        for key, value in dataclasses.asdict(ours.config).items():
            if (other := getattr(theirs.config, key)) != value:
                raise InvalidValueError(
                    f"{key} of the {name} of {first} is {value}, but that of {second} is {other}; "
                    "give models of one training"
                )
        known = dict(theirs.named_parameters())
        with torch.no_grad():
            for key, weight in ours.named_parameters():
                weight.mul_(1 - share).add_(known[key], alpha=share)
        means[name] = ours.to(torch.bfloat16)
    return CoreNets(
        **means,  # type: ignore[arg-type]
        learned_positions=max(nets.learned_positions, others.learned_positions),
        trained_shapes=tuple(sorted({*nets.trained_shapes, *others.trained_shapes})),
    )
