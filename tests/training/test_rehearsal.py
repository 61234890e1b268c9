"""Kinds of rows that cannot be made are named before the first step."""

from __future__ import annotations

from typing import Any

import pytest

from megacontext.errors import InvalidValueError
from megacontext.training import rehearsal
from megacontext.training.curriculum import ROWS, Batch, BatchKind, Stage, batch_of
from megacontext.training.gist_cuts import GistCut
from megacontext.training.rehearsal import rehearse
from megacontext.training.windows import TextSource

CUT = GistCut(shapes=((32, 1), (32, 4)), num_tail=2)


def stage_of(**changed: object) -> Stage:
    kind = {"name": "k", "share": 1.0, "rows": 64, "length": 192, "mix": {"plain": 1.0}, **changed}
    return Stage(name="s", batches=(BatchKind(**kind),))  # type: ignore[arg-type]


def test_every_kind_is_drawn_in_every_shape(source: TextSource, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = set()

    def noting(kind: BatchKind, row_kinds: tuple[str, ...], *rest: Any) -> Batch:
        batch = batch_of(kind, row_kinds, *rest)
        mixed = batch.mixed
        drawn.add((row_kinds, mixed and (mixed.block_tokens, mixed.gist_width)))
        return batch

    monkeypatch.setattr(rehearsal, "batch_of", noting)
    kinds = {kind: 1.0 for kind in ROWS if kind != "babi"}  # the fixture has no stories
    rehearse(source, [stage_of(length=512, mix=kinds), stage_of(gists=CUT, mix={"aligned": 0.5, "plain": 0.5})])
    plain = {((kind,), None) for kind in kinds}
    assert drawn == plain | {((kind,), shape) for kind in ("aligned", "plain") for shape in CUT.shapes}


@pytest.mark.parametrize(
    ("row_kind", "why"),
    [("recall", "did not fit into a row of 8; use longer rows"), ("puzzles", "use longer rows")],
)
def test_rows_that_are_too_short_are_named(source: TextSource, row_kind: str, why: str) -> None:
    said = rf"stage 's', batch 'k': no row of kind '{row_kind}' with 8 tokens can be made: .*{why}"
    with pytest.raises(InvalidValueError, match=said):
        rehearse(source, [stage_of(), stage_of(length=8, mix={"plain": 0.9, row_kind: 0.1})])
    rehearse(source, [stage_of(length=8, mix={"plain": 0.9, row_kind: 0.0})])  # never drawn


def test_every_join_is_tried(source: TextSource) -> None:
    roomy = GistCut(shapes=((32, 1),), num_tail=2, joins=((0, 1), (2, 2)))
    rehearse(source, [stage_of(gists=roomy)])
    laid_out = []

    def noting(kind: BatchKind, *rest: Any) -> Batch:
        assert kind.gists is not None
        laid_out.append(tuple(kind.gists.joins))
        return batch_of(kind, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "batch_of", noting)
        rehearse(source, [stage_of(gists=roomy)])
    assert set(laid_out) == {((0, 1),), ((2, 2),)}
