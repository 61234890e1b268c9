"""How much of a row teaches: what share of its positions is padding, predicts nothing, or stands in scraps of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

import numpy as np

from megacontext.training.tokens import END_OF_TEXT, PAD
from megacontext.training.windows import TextSource, Window

__all__ = ["Packing", "packing"]

SCRAP_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Shares of a row's positions. padding: hold no text; untaught: predict nothing; scraps: in running text of fewer
    than `SCRAP_TOKENS` tokens, between two places where the next token does not follow or a document ends; answers:
    carry an answer's weight."""

    padding: float
    untaught: float
    scraps: float
    answers: float


def packing(
    source: TextSource, make: Callable[[TextSource, Random, int], Window], length: int, seeds: Iterable[str]
) -> Packing:
    """Measure one kind of row, one row a seed."""
    end, pad = (source.tokenizer.token_to_id(token) for token in (END_OF_TEXT, PAD))
    measured = []
    for seed in seeds:
        row = make(source, Random(seed), length)
        breaks = np.flatnonzero((row.weights_T == 0) | (row.tokens_T == end))
        pieces = np.diff([-1, *breaks, length - 1])
        measured.append(
            (
                (row.tokens_T == pad).mean(),
                (row.weights_T == 0).mean(),
                pieces[pieces < SCRAP_TOKENS].sum() / length,
                (row.weights_T > 1).mean(),
            )
        )
    padding, untaught, scraps, answers = (float(share) for share in np.mean(measured, axis=0))
    return Packing(padding=padding, untaught=untaught, scraps=scraps, answers=answers)
