"""GistNet: any block size, width and level through one net.

Shape legend: N spans, K vectors per span, r slots, D width.
"""

from __future__ import annotations

import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.gist_net import GistNet, activated, attended, share_means, slot_centers
from megacontext.nets.shapes import GistNetConfig

SMALL = GistNetConfig(width=32, num_layers=2, num_heads=4, mlp_width=48, num_pool_heads=4, pool_head_dim=8)


def net(seed: int = 0) -> GistNet:
    """A small net whose every matrix matters."""
    generator = torch.Generator().manual_seed(seed)
    made = GistNet(SMALL)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2 and min(weight.shape) > 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5)
    return made.eval()


def spans(num_spans: int, num_vectors: int) -> torch.Tensor:
    return torch.randn(num_spans, num_vectors, SMALL.width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("num_children", [8, 32, 128])
@pytest.mark.parametrize("gist_width", [1, 2, 4])
def test_one_net_serves_every_block_size_width_and_level(num_children: int, gist_width: int) -> None:
    made = net()
    with torch.no_grad():
        ones = made(spans(3, num_children), level=1, num_children=num_children, gist_width=gist_width)
        assert ones.shape == (3, gist_width, SMALL.width)
        children = spans(2, num_children * gist_width)
        twos = made(children, level=2, num_children=num_children, gist_width=gist_width)
        fours = made(children, level=4, num_children=num_children, gist_width=gist_width)
    assert twos.shape == (2, gist_width, SMALL.width)
    assert torch.equal(twos, fours)  # one kind of level above the first


def test_a_span_is_encoded_by_itself() -> None:
    made = net()
    inputs = spans(4, 32)
    with torch.no_grad():
        together = made(inputs, level=1, num_children=32, gist_width=2)
        alone = made(inputs[2:3], level=1, num_children=32, gist_width=2)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_gradients_is_the_fused_kernels(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(6, 4, 32, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    ours = attended(q, k, v)
    ours.square().sum().backward()
    slopes = [part.grad for part in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*(part.detach().double() for part in (q, k, v)))
    wide = [part.detach().double().requires_grad_() for part in (q, k, v)]
    torch.nn.functional.scaled_dot_product_attention(*wide).square().sum().backward()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert (ours.double() - expected).norm() < tolerance * expected.norm()
    for slope, part in zip(slopes, wide, strict=True):
        assert slope is not None
        assert part.grad is not None
        assert (slope.double() - part.grad).norm() < tolerance * part.grad.norm()
    with torch.no_grad():
        assert (attended(q, k, v).double() - expected).norm() < tolerance * expected.norm()


def test_the_order_of_tokens_matters() -> None:
    made = net()
    inputs = spans(1, 32)
    swapped = inputs[:, [1, 0, *range(2, 32)]]
    with torch.no_grad():
        ours, theirs = (made(x, level=1, num_children=32, gist_width=1) for x in (inputs, swapped))
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize(("num_vectors", "gist_width"), [(32, 1), (32, 16), (10, 4)])
def test_shares_of_a_span_are_averaged_at_the_length_of_one_vector(num_vectors: int, gist_width: int) -> None:
    inputs = spans(2, num_vectors)
    means = share_means(inputs, gist_width)
    for slot in range(gist_width):
        inside = [k for k in range(num_vectors) if k * gist_width // num_vectors == slot]
        expected = inputs[:, inside].sum(1) / len(inside) ** 0.5
        torch.testing.assert_close(means[:, slot], expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_net_begins_near_the_means_of_its_shares() -> None:
    torch.manual_seed(0)
    inputs = spans(8, 32)
    with torch.no_grad():
        gists = GistNet(SMALL)(inputs, level=1, num_children=32, gist_width=2)
    means = share_means(inputs, 2)
    assert torch.nn.functional.cosine_similarity(gists, means, dim=-1).min() > 0.97
    learned = gists - means
    assert 0.05 < float(learned.pow(2).mean().sqrt()) < 0.15
    assert (learned[:, 0] - learned[:, 1]).abs().max() > 1e-3  # slots look from their own places


def test_slots_stand_in_the_middle_of_their_share() -> None:
    assert slot_centers(32, 1).tolist() == [15.5]
    assert slot_centers(32, 4).tolist() == [3.5, 11.5, 19.5, 27.5]
    assert slot_centers(8, 8).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("num_vectors", "level", "num_children", "gist_width"),
    [(32, 0, 32, 1), (33, 1, 32, 1), (32, 1, 32, 33), (32, 1, 32, 0), (32, 1, 0, 1), (32, 1, -32, 1), (0, 1, 32, 1)],
)
def test_an_impossible_gist_is_refused(num_vectors: int, level: int, num_children: int, gist_width: int) -> None:
    with pytest.raises(InvalidValueError, match="cannot make"):
        net()(spans(1, num_vectors), level=level, num_children=num_children, gist_width=gist_width)


def test_spans_of_another_shape_or_kind_are_refused() -> None:
    wrong = (spans(1, 32)[0], spans(1, 32)[..., 1:], torch.zeros(spans(1, 32).shape, dtype=torch.int64))
    for vectors in wrong:
        with pytest.raises(InvalidValueError, match=r"give floating-point vectors \[spans, vectors, \d+\]"):
            net()(vectors, level=1, num_children=32, gist_width=1)


def test_gelu_is_by_tanh_where_it_is_learned_and_no_other_where_it_is_not() -> None:
    x = torch.linspace(-6, 6, 4001)
    by_tanh = torch.nn.functional.gelu(x, approximate="tanh")
    assert torch.equal(activated(x), by_tanh)
    with torch.no_grad():
        assert torch.equal(activated(x), by_tanh)
        exact = activated(x.bfloat16()).float()
    assert not torch.equal(exact, torch.nn.functional.gelu(x.bfloat16(), approximate="tanh").float())
    assert torch.equal(activated(x.bfloat16()), torch.nn.functional.gelu(x.bfloat16(), approximate="tanh"))
    of_rounded = torch.nn.functional.gelu(x.bfloat16().float(), approximate="tanh")
    assert float((exact - of_rounded).abs().max()) <= 2**-6 + 5e-4, "what bfloat16 rounds 4 to 8 to"
    small = x.abs() < 1
    assert float((exact - of_rounded)[small].abs().max()) <= 2**-9 + 5e-4
