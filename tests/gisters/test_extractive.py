"""Extractive gists: what is chosen, by hand; and that no chunking changes the choice."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.gisters.extractive import ExtractiveGister
from megacontext.ports.base import BaseInfo
from megacontext.ports.gister import GistBatch, Gister
from megacontext.testing.fake_base import ArrayRows, BaseInMemory, tiny_base
from megacontext.testing.gister_suite import GisterSuite

SOURCES = {dtype: BaseInMemory(tiny_base(dtype=dtype)) for dtype in ("float32", "bfloat16")}


class ScriptedBase:
    """Says of each token that it surprises by its own id; knows nothing else."""

    def surprise(self, token_ids_BT: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        return token_ids_BT.astype(np.float32)


class ScriptedSource:
    """Embedding of id i: (i, -i)."""

    info: BaseInfo = dataclasses.replace(SOURCES["float32"].info, dim=2)
    embeddings = ArrayRows(np.array([[i, -i] for i in range(256)], dtype=np.float32))

    def load(self) -> ScriptedBase:
        return ScriptedBase()


class TestExtractiveGister(GisterSuite):
    shapes = ((8, 1), (32, 4), (128, 2))

    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        return ExtractiveGister(SOURCES["float32"], block_tokens=block_tokens, gist_width=gist_width)

    def test_tokens_without_their_context_are_refused(self) -> None:
        gister = self.make(block_tokens=32, gist_width=1)
        with pytest.raises(InvalidValueError, match="the block at 1024 is read from 832 on"):
            gister.from_tokens(self.tokens(32), start=1024, num_context=0)

    def test_context_matters(self) -> None:
        gister = self.make(block_tokens=32, gist_width=4)
        token_ids = self.tokens(64)
        other = token_ids.copy()
        other[:32] = 3
        chosen, instead = (self.gist(gister, ids, 32, 64) for ids in (token_ids, other))
        assert not np.array_equal(chosen.weights, instead.weights)

    def test_more_context_than_needed_changes_nothing(self) -> None:
        gister = self.make(block_tokens=32, gist_width=2)
        token_ids = self.tokens(1024 + 64)
        expected = self.gist(gister, token_ids, 1024, 1088)
        got = gister.from_tokens(token_ids, start=0, num_context=1024)
        np.testing.assert_array_equal(got.offsets, expected.offsets)
        np.testing.assert_array_equal(got.weights, expected.weights)


class TestExtractiveGisterInBfloat16(GisterSuite):
    shapes = ((32, 4),)

    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        return ExtractiveGister(SOURCES["bfloat16"], block_tokens=block_tokens, gist_width=gist_width)


def test_golden_example_by_hand() -> None:
    gister = ExtractiveGister(ScriptedSource(), block_tokens=4, gist_width=2)  # type: ignore[arg-type]
    token_ids = np.array([5, 9, 9, 1, 2, 2, 2, 2, 7, 0, 0, 8, 3, 4, 6, 5], dtype=np.uint32)
    gists = gister.from_tokens(token_ids, start=0, num_context=0)
    assert gists.offsets.tolist() == [[1, 2], [0, 1], [0, 3], [2, 3]]  # of equal ones the earlier
    assert gists.weights.tolist() == [[9, 9], [2, 2], [7, 8], [6, 5]]
    assert gists.vectors[:, :, 0].tolist() == gists.weights.tolist()
    assert gists.vectors[:, :, 1].tolist() == (-gists.weights).tolist()
    parent = gister.from_gists(gists, level=2)
    assert parent.offsets.tolist() == [[1, 2]]
    assert parent.weights.tolist() == [[9, 9]]
    other = GistBatch(vectors=gists.vectors, offsets=gists.offsets, weights=gists.weights[:, ::-1].copy())
    other.weights[1] = (11, 3)
    assert gister.from_gists(other, level=3).offsets.tolist() == [[1, 16]]
    assert gister.spread == 0


def test_a_base_that_cannot_score_is_refused() -> None:
    class Silent(ScriptedSource):
        def load(self) -> object:  # type: ignore[override]
            return self

    gister = ExtractiveGister(Silent(), block_tokens=4, gist_width=1)  # type: ignore[arg-type]
    with pytest.raises(BaseModelError, match="use gister 'mean'"):
        gister.from_tokens(np.zeros(4, dtype=np.uint32), start=0, num_context=0)


def test_a_base_too_short_for_the_block_is_refused() -> None:
    source = ScriptedSource()
    source.info = dataclasses.replace(source.info, max_positions=64)
    with pytest.raises(InvalidValueError, match="use smaller blocks"):
        ExtractiveGister(source, block_tokens=64, gist_width=1)  # type: ignore[arg-type]
    assert ExtractiveGister(source, block_tokens=8, gist_width=1).window_tokens == 56  # type: ignore[arg-type]
