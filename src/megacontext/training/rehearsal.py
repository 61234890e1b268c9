"""Every kind of row and batch drawn once before a run begins, so that none fails for the first time hours later."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

from megacontext.errors import InvalidValueError
from megacontext.training.curriculum import ROWS, BatchKind, Stage, batch_of
from megacontext.training.windows import TextSource

__all__ = ["rehearse"]

NUM_DRAWS = 4  # rows of a kind differ in how much room they take


def rehearse(source: TextSource, stages: Sequence[Stage], *, where: str = "") -> None:
    """Draw rows of every kind in every batch, and lay them out in every shape of window that the batch has.

    Raises InvalidValueError naming ``where``, stage, batch and kind of row of the first that cannot be made.
    """
    for stage in stages:
        for kind in stage.batches:
            for row_kind, probability in kind.mix.items():
                if probability:
                    _draw(source, f"{where}stage {stage.name!r}, batch {kind.name!r}", kind, row_kind)


def _draw(source: TextSource, where: str, kind: BatchKind, row_kind: str) -> None:
    try:
        for seed in range(NUM_DRAWS):
            random = Random(seed)
            row = ROWS[row_kind](source, random, kind.length)
            for one in _layouts(kind):
                batch_of(one, (row_kind,), [row], random, source.pieces_V)
    except (AssertionError, ValueError, LookupError) as error:
        if isinstance(error, InvalidValueError):
            why = str(error)
        else:  # a row maker that ran out of room says so with an assertion of its own
            why = "there is no room; give the batch a greater length, or another mix"
        raise InvalidValueError(
            f"{where}: no row of kind {row_kind!r} with {kind.length} tokens can be made: {why}"
        ) from error


def _layouts(kind: BatchKind) -> list[BatchKind]:
    """The kind with each shape and each join that it may draw."""
    if kind.gists is None:
        return [kind]
    return [
        dataclasses.replace(kind, gists=dataclasses.replace(kind.gists, shapes=(shape,), joins=(joined,)))
        for shape in kind.gists.shapes
        for joined in kind.gists.joins
    ]
