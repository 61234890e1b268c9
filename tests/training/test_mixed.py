"""Mixed windows against a slow reference that builds each window entry by entry."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.training.conftest import tiny_nets
from torch import Tensor

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.testing.fake_core import TINY_CORE
from megacontext.training.core_model import window_loss
from megacontext.training.curriculum import ROWS, BatchKind, Stage, draw_batch
from megacontext.training.gist_cuts import GistCut, choose_open, predicted
from megacontext.training.mixed import entry_indices, mixed_loss, mixed_windows
from megacontext.training.windows import TextSource


def batch(num_rows: int, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, 256, (num_rows, num_tokens), generator=generator)
    return ids_BT, ids_BT.roll(-1, 1), torch.rand(num_rows, num_tokens, generator=generator)


def slow_losses(
    core: Core,
    gist_net: GistNet,
    ids_T: Tensor,
    is_open_N: npt.NDArray[np.bool_],
    block: int,
    r: int,
    joined: tuple[int, int] = (0, 1),
) -> dict[int, Tensor]:
    """Loss of every predicted position of one row: the window is listed entry by entry."""
    entries, mu, sigma, says, at = [], [], [], {}, 0.0
    num_groups, size = joined
    for group in range(num_groups):
        spans = ids_T[group * size * block : (group + 1) * size * block].view(size, block)
        children = torch.cat(
            [gist_net(core.embed(span)[None], level=1, num_children=block, gist_width=r)[0] for span in spans]
        )
        extent = min(4.0, size * block / r)
        for vector in gist_net(children[None], level=2, num_children=size, gist_width=r)[0]:
            entries.append(vector)
            mu.append(at + extent / 2 - 0.5)
            sigma.append(extent / 12**0.5)
            at += extent
    if num_groups and is_open_N[num_groups * size]:
        says[num_groups * size * block - 1] = len(entries) - 1
    for index, is_open in enumerate(is_open_N):
        if index < num_groups * size:
            continue
        span_T = ids_T[index * block : (index + 1) * block]
        if is_open:
            for t, token_id in enumerate(span_T):
                says[index * block + t] = len(entries)
                entries.append(core.embed(token_id))
                mu.append(at)
                sigma.append(0.0)
                at += 1
            continue
        vectors = gist_net(core.embed(span_T)[None], level=1, num_children=block, gist_width=r)[0]
        extent = min(4.0, block / r)
        for vector in vectors:
            entries.append(vector)
            mu.append(at + extent / 2 - 0.5)
            sigma.append(extent / 12**0.5)
            at += extent
        if index + 1 < len(is_open_N) and is_open_N[index + 1]:
            says[(index + 1) * block - 1] = len(entries) - 1
    hidden = core(torch.stack(entries)[None], torch.tensor(mu).double()[None], torch.tensor(sigma)[None]).hidden_BTD[0]
    logits = core.logits(hidden)
    targets_T = ids_T.roll(-1)
    return {t: torch.nn.functional.cross_entropy(logits[entry], targets_T[t]) for t, entry in says.items()}


@pytest.mark.parametrize(
    ("block", "r", "joined"),
    [(8, 1, (0, 1)), (8, 4, (0, 1)), (16, 2, (0, 1)), (8, 1, (1, 4)), (8, 2, (2, 2)), (16, 1, (2, 1))],
)
def test_losses_equal_a_slow_reference(block: int, r: int, joined: tuple[int, int]) -> None:
    core, gist_net = tiny_nets()
    ids_BT, targets_BT, weights_BT = batch(2, 64)
    is_open_BN = np.zeros((2, 64 // block), dtype=np.bool_)
    is_open_BN[0, [1 + joined[0] * joined[1] if joined[0] else 1, -1]] = is_open_BN[1, [-2, -1]] = True
    if block == 16 and joined[0]:
        is_open_BN[0, 2] = True
    windows = mixed_windows(is_open_BN, block_tokens=block, gist_width=r, joined=joined)
    with torch.no_grad():
        loss, losses_BT, gists, _ = mixed_loss(
            core, gist_net, windows, (ids_BT, targets_BT, weights_BT), compiled=False
        )
        expected = [slow_losses(core, gist_net, ids_BT[row], is_open_BN[row], block, r, joined) for row in range(2)]
    total = weight = torch.zeros(())
    for row, says in enumerate(expected):
        assert np.flatnonzero(predicted(is_open_BN, block_tokens=block)[row]).tolist() == sorted(says)
        for t, nats in says.items():
            torch.testing.assert_close(losses_BT[row, t], nats, atol=1e-4, rtol=1e-4)
            total, weight = total + nats * weights_BT[row, t], weight + weights_BT[row, t]
    torch.testing.assert_close(loss, total / weight, atol=1e-4, rtol=1e-4)
    assert gists.shape == (2, 64 // block - 2, r, TINY_CORE.width)
    assert (losses_BT != 0).sum() == sum(len(says) for says in expected)


def test_a_window_with_nothing_closed_is_the_plain_window() -> None:
    core, gist_net = tiny_nets()
    windows = mixed_windows(np.ones((2, 8), dtype=np.bool_), block_tokens=8, gist_width=1)
    with torch.no_grad():
        ours = mixed_loss(core, gist_net, windows, batch(2, 64), compiled=False)
        plain = window_loss(core, *batch(2, 64), compiled=False)
    torch.testing.assert_close(ours[0], plain[0])
    torch.testing.assert_close(ours[1], plain[1])


def test_every_entry_has_its_place_in_the_row() -> None:
    is_open_BN = np.zeros((1, 8), dtype=np.bool_)
    is_open_BN[0, [5, 7]] = True
    windows = mixed_windows(is_open_BN, block_tokens=8, gist_width=2, joined=(2, 2))
    (index_S,) = entry_indices(windows, num_tokens=64)
    joined = [3.5, 11.5, 19.5, 27.5]  # halves of two spans of 16 tokens
    assert index_S.tolist() == [*joined, 33.5, 37.5, *range(40, 48), 49.5, 53.5, *range(56, 64)]


def test_both_nets_learn_from_it() -> None:
    core, gist_net = tiny_nets()
    is_open_BN = np.array([[False, False, True, True]])
    windows = mixed_windows(is_open_BN, block_tokens=16, gist_width=2)
    mixed_loss(core, gist_net, windows, batch(1, 64), compiled=False)[0].backward()
    for net in (core.layers[0], gist_net):
        assert all(
            weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters() if weight.ndim == 2
        )


def test_the_blocks_that_state_what_is_asked_can_be_opened(source: TextSource) -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=2, num_open=3, open_answers=1.0)
    hits = []
    for seed in range(12):
        row = ROWS["recall"](source, Random(seed), 512)
        is_open_N = choose_open(row, cut, block_tokens=32, random=Random(seed))
        assert is_open_N.sum() == 5
        assert is_open_N[-2:].all()
        first = min(row.answers, key=lambda answer: answer.start)
        hits.append(is_open_N[(first.start - first.distance - 1) // 32])
    closed = GistCut(shapes=((32, 1),), num_tail=2)
    assert choose_open(row, closed, block_tokens=32, random=Random(0)).sum() == 2
    assert np.mean(hits) > 0.6  # three places, and often more facts than that are asked for


def test_joined_blocks_stay_closed_and_learn(source: TextSource) -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=2, num_open=3, open_answers=1.0, joins=((2, 4),))
    gists = {"name": "mixed", "share": 1.0, "rows": 2, "length": 512, "mix": {"recall": 1.0}}
    stage = Stage(name="natural", batches=(BatchKind(**gists, gists=cut),))  # type: ignore[arg-type]
    for step in range(6):
        mixed = draw_batch(source, stage, seed=0, step=step).mixed
        assert mixed is not None
        assert mixed.closed_BC[:, :8].tolist() == [[*range(8)]] * 2
        assert mixed.sources_BS.shape[1] == 2 + (16 - 8 - 5) + 5 * 32
    core, gist_net = tiny_nets()
    windows = mixed_windows(np.array([[False] * 4 + [True] * 4]), block_tokens=8, gist_width=1, joined=(1, 4))
    mixed_loss(core, gist_net, windows, batch(1, 64), compiled=False)[0].backward()
    assert gist_net.level_scale.grad is not None
    assert (gist_net.level_scale.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    "change",
    [{"shapes": ()}, {"num_tail": 0}, {"num_open": -1}, {"open_answers": 1.5}, {"joins": ()}, {"joins": ((1, 0),)}],
)
def test_an_impossible_cut_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError, match="cannot be made"):
        GistCut(**{"shapes": ((32, 1),), "num_tail": 2, **change})  # type: ignore[arg-type]


def test_a_row_without_room_is_refused(source: TextSource) -> None:
    row = ROWS["plain"](source, Random(0), 128)
    with pytest.raises(InvalidValueError, match="a row of 128 tokens cannot be cut"):
        choose_open(row, GistCut(shapes=((32, 1),), num_tail=2, num_open=3), block_tokens=32, random=Random(0))
