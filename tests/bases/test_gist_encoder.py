"""GistNet over many spans."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest
import torch

from megacontext.bases.gist_encoder import LARGE_SPANS, SLICE_SPANS, GistEncoder
from megacontext.nets.gist_net import GistNet
from megacontext.nets.shapes import GistNetConfig

CONFIG = GistNetConfig(width=32, num_layers=1, num_heads=2, mlp_width=32, num_pool_heads=2, pool_head_dim=8)


@pytest.fixture
def net() -> GistNet:
    torch.manual_seed(0)
    return GistNet(CONFIG).eval()


@pytest.fixture
def spans() -> torch.Tensor:
    return torch.randn(3 * SLICE_SPANS + 5, 8, 32, generator=torch.Generator().manual_seed(1))


def encoded(encoder: GistEncoder, spans: torch.Tensor) -> np.ndarray:
    return encoder.encode(spans, level=1, num_children=8, gist_width=2)


def test_gists_are_those_of_the_net_whoever_is_encoded_beside(net: GistNet, spans: torch.Tensor) -> None:
    encoder = GistEncoder(net)
    together = encoded(encoder, spans)
    with torch.no_grad():
        expected = net(spans, level=1, num_children=8, gist_width=2)
    np.testing.assert_allclose(together, expected.numpy(), atol=2e-3)
    for first in (0, 7, len(spans) - 1):
        np.testing.assert_array_equal(encoded(encoder, spans[first : first + 3]), together[first : first + 3])
    assert encoded(encoder, spans[:0]).shape == (0, 2, 32)


def test_larger_slices_serve_where_they_give_the_same_bits(
    net: GistNet, spans: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = net.forward

    def watched(vectors: torch.Tensor, **options: int) -> torch.Tensor:
        sizes.append(len(vectors))
        made = real(vectors, **options)
        return made * (1 + 1e-2 * is_other) if len(vectors) == LARGE_SPANS else made

    monkeypatch.setattr(net, "forward", watched)
    is_other = False
    encoder = GistEncoder(net)
    agreeing = encoded(encoder, spans)
    assert sizes == [LARGE_SPANS, SLICE_SPANS, SLICE_SPANS, *[LARGE_SPANS] * 2]
    sizes.clear()
    encoded(encoder, spans)
    assert sizes == [LARGE_SPANS] * 2, "asked once"
    encoded(encoder, spans[:SLICE_SPANS])
    assert sizes.pop() == SLICE_SPANS, "few are no more work than before"
    is_other = True
    sizes.clear()
    np.testing.assert_array_equal(encoded(GistEncoder(net), spans), agreeing)
    assert sizes == [LARGE_SPANS, SLICE_SPANS, SLICE_SPANS, *[SLICE_SPANS] * 4]


def test_threads_may_encode_at_once(net: GistNet, spans: torch.Tensor) -> None:
    encoder = GistEncoder(net)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: encoded(encoder, spans), range(8)))
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_torch_keeps_its_threads_everywhere_else(net: GistNet, spans: torch.Tensor) -> None:
    before = torch.get_num_threads()
    encoded(GistEncoder(net), spans)
    found = [torch.get_num_threads()]

    def look() -> None:
        torch.ones(8).sum()  # a thread takes its number when it first computes
        found.append(torch.get_num_threads())

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before, before]


def test_what_fails_in_a_slice_is_raised(net: GistNet, spans: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="cannot make 9 vectors"):
        GistEncoder(net).encode(spans, level=1, num_children=8, gist_width=9)
