"""A head that says a place and its error: both become true."""

from __future__ import annotations

import torch

from megacontext.nets.index_head import IndexHead


def test_it_learns_places_and_how_far_it_is_off() -> None:
    """Half of the states know the place up to 20 tokens, the others up to 200, and the last component tells which."""
    torch.manual_seed(0)
    states = torch.randn(4, 500, 8)
    is_vague = states[..., 7] > 0
    states[..., 7] = torch.where(is_vague, 1.0, -1.0)
    states = states / states.square().mean(-1, keepdim=True).sqrt()
    direction = 100 * torch.tensor([1.0] + [0.0] * 7)
    index = 300 + states @ direction + torch.where(is_vague, 200.0, 20.0) * torch.randn(4, 500)
    head = IndexHead(8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    first = float(head.loss(states, index)[0].detach())
    for _ in range(600):
        optimizer.zero_grad()
        loss, said, sigma = head.loss(states, index)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < first - 1
    for mask, true in ((is_vague, 200), (~is_vague, 20)):
        assert 0.8 * true < float((said - index)[mask].square().mean().sqrt()) < 1.3 * true
        assert 0.7 * true < float(sigma[mask].mean()) < 1.5 * true
    assert not said.requires_grad
