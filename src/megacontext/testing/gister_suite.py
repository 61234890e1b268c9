"""What every ``Gister`` promises, as a test class to subclass: give it ``make`` and run pytest.

The heart of it is order independence: tokens that arrive in any pieces give the gists that they would have given at
once, bit for bit, at every level.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from megacontext.errors import InvalidTokensError, InvalidValueError
from megacontext.ports.gister import GistBatch, Gister

__all__ = ["GisterSuite"]


class GisterSuite:
    """Subclass it as ``TestMyGister`` and override ``make``."""

    vocab_size = 256
    shapes = ((8, 1), (8, 2), (32, 1), (32, 4), (128, 2))  # (block_tokens, gist_width)

    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        """A gister; called again for the same arguments it must give an equal one."""
        raise NotImplementedError

    def tokens(self, count: int) -> npt.NDArray[np.uint32]:
        """Token ids, the same ones for the same count's prefix."""
        return np.random.default_rng(7).integers(0, self.vocab_size, 1 << 14).astype(np.uint32)[:count]

    def gist(self, gister: Gister, token_ids: npt.NDArray[np.uint32], start: int, stop: int) -> GistBatch:
        """Level-1 gists of [start, stop), with just the context that the port describes."""
        window = start // gister.window_tokens * gister.window_tokens
        context = max(0, window - gister.context_tokens) if gister.context_tokens else start
        return gister.from_tokens(token_ids[context:stop], start=context, num_context=start - context)

    def test_it_is_a_gister(self) -> None:
        for block_tokens, gist_width in self.shapes:
            gister = self.make(block_tokens=block_tokens, gist_width=gist_width)
            assert isinstance(gister, Gister)
            assert (gister.block_tokens, gister.gist_width) == (block_tokens, gist_width)
            assert gister.window_tokens % block_tokens == 0
            assert gister.name
            assert gister.version

    def test_shapes_types_and_order(self) -> None:
        for block_tokens, gist_width in self.shapes:
            gister = self.make(block_tokens=block_tokens, gist_width=gist_width)
            batch = self.gist(gister, self.tokens(block_tokens * block_tokens), 0, block_tokens * block_tokens)
            parent = gister.from_gists(batch, level=2)
            for gists, count, span in ((batch, block_tokens, block_tokens), (parent, 1, block_tokens**2)):
                assert gists.vectors.shape == (count, gist_width, gister.dim)
                dtypes = [str(array.dtype) for array in (gists.vectors, gists.offsets, gists.weights)]
                assert dtypes == ["float16", "float32", "float32"]
                assert gists.offsets.shape == gists.weights.shape == (count, gist_width)
                assert np.isfinite(gists.vectors).all()
                assert (gists.offsets >= 0).all()
                assert (gists.offsets < span).all()
                assert (np.diff(gists.offsets, axis=1) > 0).all()

    def test_any_chunking_gives_the_same_gists(self) -> None:
        for block_tokens, gist_width in self.shapes:
            gister = self.make(block_tokens=block_tokens, gist_width=gist_width)
            num_blocks = 2 * gister.window_tokens // block_tokens + 3
            token_ids = self.tokens(num_blocks * block_tokens)
            whole = self.gist(gister, token_ids, 0, len(token_ids))
            borders = [0, 1, 3, num_blocks // 2, num_blocks - 1, num_blocks]
            for first, stop in itertools.pairwise(borders):
                piece = self.gist(gister, token_ids, first * block_tokens, stop * block_tokens)
                _same(piece, whole[first:stop])

    def test_parents_do_not_depend_on_how_many_are_made_at_once(self) -> None:
        gister = self.make(block_tokens=8, gist_width=2)
        children = self.gist(gister, self.tokens(8 * 64), 0, 8 * 64)
        together = gister.from_gists(children, level=2)
        for node in range(len(together)):
            _same(gister.from_gists(children[8 * node : 8 * node + 8], level=2), together[node : node + 1])

    def test_different_tokens_give_different_gists(self) -> None:
        gister = self.make(block_tokens=32, gist_width=1)
        gists = self.gist(gister, self.tokens(320), 0, 320)
        assert len(np.unique(gists.vectors.reshape(10, -1), axis=0)) > 5

    def test_no_blocks_give_no_gists(self) -> None:
        gister = self.make(block_tokens=32, gist_width=2)
        assert len(self.gist(gister, self.tokens(0), 0, 0)) == 0

    def test_tokens_that_are_not_whole_blocks_are_refused(self) -> None:
        gister = self.make(block_tokens=32, gist_width=1)
        with pytest.raises(InvalidValueError):
            gister.from_tokens(self.tokens(33), start=0, num_context=0)
        with pytest.raises(InvalidValueError):
            gister.from_tokens(self.tokens(32), start=5, num_context=0)
        with pytest.raises(InvalidTokensError):
            gister.from_tokens(self.tokens(64).reshape(2, 32), start=0, num_context=0)


def _same(a: GistBatch, b: GistBatch) -> None:
    np.testing.assert_array_equal(a.vectors, b.vectors)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.weights, b.weights)
