"""LensNet: scores entries one by one, against what is asked."""

from __future__ import annotations

import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.lens_net import LensNet, shares_of
from megacontext.nets.shapes import FEATURES, STAKE_LEVELS, LensNetConfig

SMALL = LensNetConfig(width=32, num_heads=2, key_dim=8, mlp_width=16)


def scores(lens: LensNet, asked: torch.Tensor, entries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    queries = lens.queries(asked)
    logits: torch.Tensor = lens(queries, lens.found(queries, lens.keys(entries)), None, features)
    return logits


def example() -> tuple[LensNet, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return LensNet(SMALL), torch.randn(5, 32), torch.randn(20, 32), torch.rand(20, len(FEATURES))


def test_each_entry_stands_alone() -> None:
    lens, asked, entries, features = example()
    with torch.no_grad():
        together = scores(lens, asked, entries, features)
        alone = scores(lens, asked, entries[7:8], features[7:8])
    assert together.shape == (20,)
    torch.testing.assert_close(together[7:8], alone)


@pytest.mark.parametrize("sharpness", [4.0, -4.0, 40.0])
def test_what_is_found_is_the_soft_maximum_over_query_tokens(sharpness: float) -> None:
    lens, asked, entries, _ = example()
    with torch.no_grad():
        lens.sharpness.fill_(sharpness)
        queries, keys = lens.queries(asked), lens.keys(entries)
        cosines_HQn = queries.vectors_HQE @ keys.movedim(-3, -1)
        shares_HQ = queries.salience_HQ.log_softmax(-1)
        expected_Hn = (sharpness * cosines_HQn + shares_HQ[..., None]).logsumexp(-2)
        torch.testing.assert_close(lens.found(queries, keys), expected_Hn.T, atol=1e-5, rtol=1e-5)


def test_a_query_as_sharp_as_it_may_be_finds_finite_amounts() -> None:
    lens, asked, entries, features = example()
    with torch.no_grad():
        lens.sharpness.fill_(1e4)
    said = scores(lens, asked, entries, features)
    assert said.isfinite().all()
    said.sum().backward()
    assert lens.query.weight.grad.isfinite().all()


def test_keys_in_bfloat16_find_nearly_the_same() -> None:
    lens, asked, entries, _ = example()
    with torch.no_grad():
        queries, keys = lens.queries(asked), lens.keys(entries)
        exact, rounded = lens.found(queries, keys), lens.found(queries, keys.bfloat16())
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)


def test_nobody_asks_with_no_states() -> None:
    with pytest.raises(InvalidValueError, match="0 states to ask with; give at least"):
        LensNet(SMALL).queries(torch.zeros(0, 32))


def test_shares_leave_room_for_nothing() -> None:
    lens, asked, entries, features = example()
    with torch.no_grad():
        queries, logits = lens.queries(asked), scores(lens, asked, entries, features)
        shares = shares_of(logits, queries.nothing)
        more = shares_of(torch.cat([logits, logits]), queries.nothing)
    expected = torch.cat([queries.nothing[None], logits]).softmax(0)[1:]
    torch.testing.assert_close(shares, expected)
    assert 0 < float(shares.sum()) < float(more.sum()) < 1
    assert (more[:20] < shares).all()
    assert queries.stakes_L.shape == (STAKE_LEVELS,)
    assert (queries.stakes_L > 0).all()


def test_it_learns_to_find_the_entry_that_one_query_token_asks_for() -> None:
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    optimizer = torch.optim.Adam(lens.parameters(), lr=3e-3)
    turn = torch.linalg.qr(torch.randn(32, 32))[0]  # a question looks different from its answer

    def draw() -> tuple[torch.Tensor, torch.Tensor, int]:
        entries = torch.randn(16, 32)
        asked = torch.randn(6, 32)
        answer = int(torch.randint(16, ()))
        asked[int(torch.randint(6, ()))] = entries[answer] @ turn
        return asked, entries, answer

    no_features = torch.zeros(16, len(FEATURES))
    for _ in range(600):
        losses = []
        for _ in range(8):
            asked, entries, answer = draw()
            logits = scores(lens, asked, entries, no_features)
            losses.append(torch.nn.functional.cross_entropy(logits[None], torch.tensor([answer])))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    with torch.no_grad():
        draws = [draw() for _ in range(100)]
        hits = [int(scores(lens, asked, entries, no_features).argmax()) == answer for asked, entries, answer in draws]
    assert sum(hits) >= 80  # 6 by chance
