"""Learned gists: the promises of every gister, and where their vectors come from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from megacontext.errors import BaseModelError
from megacontext.gisters.gistnet import GistNetGister
from megacontext.nets.gist_net import GistNet
from megacontext.ports.gister import Gister
from megacontext.testing.fake_base import BaseInMemory, tiny_base
from megacontext.testing.fake_core import TINY_GIST_NET, tiny_core_base
from megacontext.testing.gister_suite import GisterSuite

SOURCE = BaseInMemory(tiny_core_base())


class TestGistNetGister(GisterSuite):
    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        return GistNetGister(SOURCE, block_tokens=block_tokens, gist_width=gist_width)

    def test_vectors_are_the_nets_own_and_stand_in_the_middle_of_their_share(self) -> None:
        gister = self.make(block_tokens=8, gist_width=2)
        token_ids = self.tokens(64)
        gists = self.gist(gister, token_ids, 0, 64)
        base = tiny_core_base()
        net = base._gist_encoder._net
        assert isinstance(net, GistNet)
        with torch.no_grad():
            vectors = base.embed(token_ids).view(8, 8, TINY_GIST_NET.width)
            expected = net(vectors, level=1, num_children=8, gist_width=2)
            parents = net(expected.view(1, 16, -1), level=2, num_children=8, gist_width=2)
        np.testing.assert_allclose(gists.vectors, expected.numpy(), atol=2e-3)
        assert gists.offsets.tolist() == [[1.5, 5.5]] * 8
        above = gister.from_gists(gists, level=2)
        np.testing.assert_allclose(above.vectors, parents.numpy(), atol=2e-2)
        assert above.offsets.tolist() == [[15.5, 47.5]]
        assert gister.spread == pytest.approx(12**-0.5 / 2)

    def test_the_version_names_the_weights(self) -> None:
        assert self.make(block_tokens=8, gist_width=1).version == "1-tiny0"


def test_a_base_without_a_net_is_refused() -> None:
    with pytest.raises(BaseModelError, match=r"has no learned gists; use a base that was trained"):
        GistNetGister(BaseInMemory(tiny_base()), block_tokens=8, gist_width=1)


def test_an_adapter_that_cannot_make_them_is_named() -> None:
    plain = tiny_base()
    plain.info = dataclasses.replace(plain.info, gist_net="somewhere")
    gister = GistNetGister(BaseInMemory(plain), block_tokens=8, gist_width=1)
    with pytest.raises(BaseModelError, match="its adapter cannot make learned gists"):
        gister.from_tokens(np.zeros(8, dtype=np.uint32), start=0, num_context=0)
