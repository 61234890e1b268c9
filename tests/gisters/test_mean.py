"""Mean gists against the plain formula."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.gisters.mean import MeanGister
from megacontext.ports.gister import Gister
from megacontext.testing.fake_base import BaseInMemory, tiny_base
from megacontext.testing.gister_suite import GisterSuite

SOURCE = BaseInMemory(tiny_base())
EVERY_ROW = SOURCE.embeddings.rows(np.arange(256))


class TestMeanGister(GisterSuite):
    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        return MeanGister(SOURCE, block_tokens=block_tokens, gist_width=gist_width)

    @pytest.mark.parametrize("gist_width", [1, 2, 3, 4, 8])
    def test_equals_the_plain_formula(self, gist_width: int) -> None:
        gister = self.make(block_tokens=8, gist_width=gist_width)
        token_ids = self.tokens(8 * 600)
        gists = self.gist(gister, token_ids, 0, len(token_ids))
        blocks = token_ids.reshape(-1, 8)
        parts = [range(8)[part * 8 // gist_width : (part + 1) * 8 // gist_width] for part in range(gist_width)]
        for part, columns in enumerate(parts):
            expected = EVERY_ROW[blocks[:, list(columns)]].mean(axis=1)
            np.testing.assert_allclose(gists.vectors[:, part], expected, atol=2e-3)
            assert (gists.offsets[:, part] == np.mean(columns)).all()
        assert gister.spread == pytest.approx(12**-0.5 / gist_width)

    def test_parents_average_their_children_at_the_middle_of_the_span(self) -> None:
        gister = self.make(block_tokens=8, gist_width=2)
        token_ids = self.tokens(8**3)
        children = self.gist(gister, token_ids, 0, 8**3)
        parents = gister.from_gists(children, level=2)
        grandparent = gister.from_gists(parents, level=3)
        expected = EVERY_ROW[token_ids.reshape(2, -1)].mean(axis=1)
        np.testing.assert_allclose(grandparent.vectors[0], expected, atol=2e-3)
        np.testing.assert_allclose(grandparent.offsets[0], [127.5, 383.5])
        np.testing.assert_allclose(parents.offsets, np.tile([15.5, 47.5], (8, 1)))
        assert (grandparent.weights == 1).all()
