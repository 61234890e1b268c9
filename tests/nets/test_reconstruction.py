"""Reading a span back from its gist: which vector is asked for which token."""

from __future__ import annotations

import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.norm import NORM_EPSILON
from megacontext.nets.reconstruction import Reconstructor


@pytest.mark.parametrize(("span_tokens", "gist_width"), [(8, 1), (8, 2), (10, 4)])
def test_each_token_is_read_from_the_vector_of_its_share(span_tokens: int, gist_width: int) -> None:
    torch.manual_seed(0)
    net = Reconstructor(16, mlp_width=24, max_tokens=12)
    gists = torch.randn(3, gist_width, 16)
    firsts: dict[int, int] = {}
    with torch.no_grad():
        hidden = net(gists, span_tokens=span_tokens)
        for token in range(span_tokens):
            slot = token * gist_width // span_tokens
            within = token - firsts.setdefault(slot, token)
            vector = torch.nn.functional.rms_norm(gists[:, slot], (16,), eps=NORM_EPSILON)
            read = net.down(torch.nn.functional.silu(net.up(vector)) * net.place_gain[within])
            expected = torch.nn.functional.rms_norm(
                read + net.look(vector) + net.place[within], (16,), eps=NORM_EPSILON
            )
            torch.testing.assert_close(hidden[:, token], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("span_tokens", "gist_width"), [(12, 1), (24, 2), (23, 2), (3, 3)])
def test_a_vector_is_asked_for_as_many_tokens_as_there_are_places(span_tokens: int, gist_width: int) -> None:
    net = Reconstructor(16, mlp_width=24, max_tokens=12)
    net.check_share(span_tokens=span_tokens, gist_width=gist_width)
    assert net(torch.randn(1, gist_width, 16), span_tokens=span_tokens).shape == (1, span_tokens, 16)


@pytest.mark.parametrize(("span_tokens", "gist_width", "share"), [(13, 1, 13), (25, 2, 13), (256, 4, 64)])
def test_more_are_refused_in_one_line(span_tokens: int, gist_width: int, share: int) -> None:
    net = Reconstructor(16, mlp_width=24, max_tokens=12)
    most = 12 * gist_width
    said = (
        rf"\[{span_tokens}, {gist_width}\] has {share} tokens a vector, and at most 12 are .* of at most {most} tokens"
    )
    with pytest.raises(InvalidValueError, match=said):
        net.check_share(span_tokens=span_tokens, gist_width=gist_width)
    with pytest.raises(InvalidValueError, match=said):
        net(torch.randn(1, gist_width, 16), span_tokens=span_tokens)


def test_checkpoints_hold_128_places() -> None:
    assert Reconstructor(16, mlp_width=24).place.shape == (128, 16)
