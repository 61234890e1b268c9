"""Swap rate and residency against texts whose changes are known, and against a slow count."""

from __future__ import annotations

import runpy
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, STAKE_LEVELS, LensNetConfig
from megacontext.training.lens_labels import LensSample, label
from megacontext.training.lens_model import lens_utilities
from megacontext.training.lens_stability import moments_by_text, stability
from megacontext.training.moments import moments_of
from megacontext.training.rows import plain_row
from megacontext.training.windows import TextSource

NUM_BLOCKS = 10


def sample_of(text: int, values: list[float]) -> LensSample:
    """A sample of a text; what its blocks are worth stands in the first dimension of their gists."""
    gists_CD = torch.zeros(NUM_BLOCKS, 4)
    gists_CD[:, 0] = torch.tensor(values)
    return LensSample(
        query_QD=torch.zeros(3, 4),
        gists_CD=gists_CD,
        features_CF=torch.zeros(NUM_BLOCKS, len(FEATURES)),
        saved_LC=torch.zeros(STAKE_LEVELS, NUM_BLOCKS),
        evidence_C=torch.zeros(NUM_BLOCKS),
        known_C=torch.ones(NUM_BLOCKS, dtype=torch.bool),
        told_C=torch.zeros(NUM_BLOCKS, dtype=torch.bool),
        query_ids_Q=torch.zeros(3, dtype=torch.int32),
        blocks_CK=torch.full((NUM_BLOCKS, 8), text, dtype=torch.int32),
        asks=torch.tensor(False),
    )


def valued(sample: LensSample) -> Tensor:
    return sample.gists_CD[:, 0]


def text_of(number: int, opened: list[set[int]]) -> list[LensSample]:
    return [sample_of(number, [float(block in blocks) for block in range(NUM_BLOCKS)]) for blocks in opened]


def test_a_change_of_one_block_in_two() -> None:
    text = text_of(0, [{0, 1}, {0, 1}, {0, 2}, {3, 2}])
    found = stability(valued, [text], num_open=2)
    assert found["swap_rate"] == round((0 + 1 / 2 + 1 / 2) / 3, 4)
    assert found["residency"] == round((3 + 2 + 2 + 1) / 4, 4)  # 0, 1, 2 and 3


def test_limits_are_always_and_never_the_same() -> None:
    assert stability(valued, [text_of(0, [{4, 5}] * 7)], num_open=2) == {"swap_rate": 0.0, "residency": 7.0}
    other = [{0, 1}, {2, 3}] * 3
    assert stability(valued, [text_of(0, other)], num_open=2) == {"swap_rate": 1.0, "residency": 1.0}


def test_what_comes_back_begins_a_new_stay_and_texts_are_not_joined() -> None:
    texts = [text_of(0, [{0, 1}, {0, 2}, {0, 1}]), text_of(1, [{0, 1}] * 3), text_of(2, [{0, 1}])]
    found = stability(valued, texts, num_open=2)
    assert found["swap_rate"] == round((0.5 + 0.5 + 0 + 0) / 4, 4)
    assert found["residency"] == round((3 + 1 + 1 + 1 + 3 + 3) / 6, 4)
    assert stability(valued, texts[2:], num_open=2) == {}
    assert stability(valued, [], num_open=2) == {}


def test_counted_block_by_block() -> None:
    random = Random(3)
    texts = [
        [sample_of(number, [random.random() for _ in range(NUM_BLOCKS)]) for _ in range(random.randint(2, 6))]
        for number in range(20)
    ]
    stays, swaps = [], []
    for text in texts:
        opened = [set(sorted(range(NUM_BLOCKS), key=lambda block: -float(valued(s)[block]))[:6]) for s in text]
        for block in range(NUM_BLOCKS):
            runs = "".join("x" if block in blocks else " " for blocks in opened).split()
            stays += [len(run) for run in runs]
        swaps += [len(opened[at] - opened[at - 1]) / 6 for at in range(1, len(opened))]
    found = stability(valued, texts)
    assert found["swap_rate"] == pytest.approx(sum(swaps) / len(swaps), abs=1e-4)
    assert found["residency"] == pytest.approx(sum(stays) / len(stays), abs=1e-4)


def test_moments_of_real_text_are_told_apart_and_logged(nets: tuple[Core, GistNet], source: TextSource) -> None:
    rows = [plain_row(source, Random(seed), 1024) for seed in range(3)]
    asked = [(row, moments_of(row, tail_tokens=320, block_tokens=32)) for row in rows]
    samples = label(*nets, asked, tail_tokens=320, measured=False)
    texts = moments_by_text(samples)
    assert [len(text) for text in texts] == [len(moments) for _, moments in asked]
    assert len(texts[0]) > 5
    torch.manual_seed(0)
    lens = LensNet(LensNetConfig(width=nets[0].config.width, num_heads=2, key_dim=8, mlp_width=16))
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "core" / "lens.py"))
    figures = recipe["stability_figures"](lens, texts)
    expected = stability(lambda sample: lens_utilities(lens, sample), texts)
    assert figures == {f"{name}/plain": value for name, value in expected.items()}
    assert 0 <= figures["swap_rate/plain"] <= 1 <= figures["residency/plain"] <= len(texts[0])
    for sample in samples:
        sample.saved_LC.zero_()
    held_out, followed = recipe["judged"]([("plain", sample) for sample in samples] + [("fact", samples[0])])
    assert (len(held_out["plain"]), len(held_out["questions"])) == (len(samples), 1)
    assert [len(text) for text in followed] == [len(text) for text in texts]
