"""The probe reads what is there to be read, and the factor on sigma is put back."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.memory_windows import score_windows
from megacontext.training.position_probe import index_errors, scaled_sigma_nats
from megacontext.training.rows import plain_row
from megacontext.training.windows import TextSource, Window


@pytest.fixture
def rows(source: TextSource) -> list[Window]:
    return [plain_row(source, Random(seed), 256) for seed in range(8)]


def test_a_core_that_writes_down_its_places_is_read(nets: tuple[Core, GistNet], rows: list[Window]) -> None:
    core, gist_net = nets

    def note_place(layer: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        num_gists = int(args[3][0].sum())  # 4 blocks are gists, 128 tokens follow
        middles = torch.cat([torch.arange(num_gists) * 32 + 15.5, torch.arange(num_gists * 32, 256.0)])
        return torch.cat([middles[None, :, None].expand(len(out), -1, 1), out[..., 1:]], dim=-1)

    blind = index_errors(core, gist_net, rows, tail_tokens=128, layer=0)
    hook = core.layers[0].register_forward_hook(note_place)
    try:
        told = index_errors(core, gist_net, rows, tail_tokens=128, layer=0)
    finally:
        hook.remove()
    assert told["gists"] < 1
    assert told["tokens"] < 1
    assert blind["tokens"] > 10 * told["tokens"]
    assert told["guessing"] == blind["guessing"] > 30
    assert told["sigma"] == pytest.approx(9.24)


def test_sigma_is_multiplied_and_put_back(nets: tuple[Core, GistNet], rows: list[Window]) -> None:
    core, gist_net = nets
    nats = scaled_sigma_nats(core, gist_net, rows, tail_tokens=128, factors=(1.0, 8.0))
    is_open = np.zeros((8, 8), dtype=np.bool_)
    is_open[:, 4:] = True
    expected = score_windows(core, gist_net, rows, is_open, block_tokens=32, gist_width=1).nats_BT[:, -128:].mean(1)
    np.testing.assert_allclose(nats[1.0], expected, atol=1e-6)
    assert not np.allclose(nats[1.0], nats[8.0], atol=1e-5)
    assert float(core.log_sigma_scale) == 0.0
