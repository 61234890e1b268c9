"""The pace is measured, kept for the block, and what was is put back."""

from __future__ import annotations

import pytest
import torch

from megacontext.evaluation import pace as paces
from megacontext.evaluation.pace import best_pace
from megacontext.testing.fake_base import tiny_base


def test_threads_are_set_for_the_block_and_put_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with best_pace(tiny_base()) as pace:
            assert pace.num_threads in (1, 2)
            assert pace.tokens_per_second > 0
            assert torch.get_num_threads() == pace.num_threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("fastest", [1, 2])
def test_the_faster_of_both_is_kept(fastest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {1: 50.0, 2: 50.0, fastest: 90.0}
    monkeypatch.setattr(paces, "_tokens_per_second", lambda base: speeds[torch.get_num_threads()])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with best_pace(tiny_base()) as pace:
            assert (pace.num_threads, pace.tokens_per_second) == (fastest, 90.0)
            assert torch.get_num_threads() == fastest
    finally:
        torch.set_num_threads(before)
