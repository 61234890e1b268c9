"""Curricula that could not be: refused before a run begins; and what the log calls an answer."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from tests.training.conftest import TINY_MODEL

from megacontext.errors import InvalidValueError
from megacontext.training.curriculum import BatchKind, Stage, batch_of
from megacontext.training.gauges import Gauges
from megacontext.training.gist_cuts import GistCut
from megacontext.training.meter import Meter
from megacontext.training.plan import Plan
from megacontext.training.rows import plain_row, puzzle_row, recall_row
from megacontext.training.settings import read_settings
from megacontext.training.windows import TextSource

RAW = '{ name = "raw", share = 1.0, rows = 2, length = 64, mix = { recall = 1.0 } }'
SHOWN = RAW.replace("} }", "}, gists = { shapes = [[32, 1]], num_tail = 1 } }").replace('"raw"', '"shown"')
NET = "[gist_net]\nwidth = 32\n[memory]\n"
REST = "[loop]\nnum_steps = 4\n[shares]\nbooks = 1.0\n[[stage]]\nname = 'only'\nbatches = [{batches}]\n"


@pytest.mark.parametrize(
    ("tables", "batches", "said"),
    [
        ("", SHOWN, r"'only', batch 'shown' shows gists, but there is no \[gist_net\]"),
        ("[memory]\n", RAW, r"\[memory\] is how a \[gist_net\] is taught; add that"),
        (NET, RAW, r"there is a \[gist_net\], but no batch shows gists"),
    ],
)
def test_gists_without_their_net_and_the_other_way_round(tables: str, batches: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TINY_MODEL + tables + REST.replace("{batches}", batches))
    with pytest.raises(InvalidValueError, match=said):
        Plan.read(read_settings(path))


def kind(name: str = "one", **more: object) -> BatchKind:
    given = {"share": 1.0, "rows": 1, "length": 2048, "mix": {"recall": 1.0}} | more
    return BatchKind(name=name, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("mix", [{"plain": 1.0}, {"quotes": 0.5, "cut_plain": 0.5}, {"plain": 1.0, "recall": 0.0}])
def test_a_gate_that_asks_nothing_would_never_open(mix: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="gate is 'one', whose rows ask nothing, so the stage would never end"):
        Stage(name="s", batches=(kind(mix=mix),), gate="one")
    assert Stage(name="s", batches=(kind(mix=mix | {"recall": 0.1}),), gate="one").gate == "one"


def test_spans_alone_are_no_gate() -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=0, spans_only=True)
    with pytest.raises(InvalidValueError, match="ask nothing"):
        Stage(name="s", batches=(kind(gists=cut),), gate="one")


def test_two_batches_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="2 batches are called 'one'; give each its own name"):
        Stage(name="s", batches=(kind(), kind("other"), kind()))


def test_joins_that_leave_no_room_are_refused_when_they_are_read() -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=4, num_open=6, joins=((0, 1), (4, 14)))
    with pytest.raises(
        InvalidValueError,
        match=r"joins .* and num_open \(6\) need 62 blocks of 32 tokens before the tail, but there are 60",
    ):
        kind(gists=cut)
    assert kind(gists=GistCut(shapes=((32, 1),), num_tail=4, num_open=4, joins=((4, 14),))).gists


def test_rows_as_short_as_they_may_be_are_made_whatever_is_drawn(source: TextSource) -> None:
    """Four rows, as many as a rehearsal draws, are not enough to know it."""
    for seed in range(100):
        assert len(recall_row(source, Random(seed), 160).tokens_T) == 160
        assert len(puzzle_row(source, Random(seed), 512).tokens_T) == 512
    with pytest.raises(InvalidValueError, match=r"100 times puzzles of about .* tokens did not fit into a row of 64"):
        puzzle_row(source, Random(0), 64)
    with pytest.raises(InvalidValueError, match=r"100 times facts .* did not fit into a row of 8; use longer rows"):
        recall_row(source, Random(0), 8)


def test_words_that_weigh_more_are_text_and_no_answers(source: TextSource) -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=8, far_weight=5.0)
    one = kind(length=512, gists=cut)
    rows = [plain_row(source, Random(1), 512), recall_row(source, Random(2), 512)]
    batch = batch_of(one, ("plain", "recall"), rows, Random(0), source.pieces_V)
    assert int((batch.weights_BT[0] > 1).sum()) > 0, "far words"
    assert not batch.answers_BT[0].any()
    assert batch.answers_BT[1].any()
    torch.testing.assert_close(batch.answers_BT[1], batch.weights_BT[1] > 1)
    meter = Meter(Gauges())
    meter.measure(batch, torch.ones(batch.ids_BT.shape))
    assert set(meter.recent) == {
        "nll",
        "text/plain_512_gists_32_1",
        "text/recall_512_gists_32_1",
        "answer/recall_512_gists_32_1",
    }
