"""Rates of each kind of weight, the schedule's factor and clipping: what one step moves, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megacontext.training.optim import MasterOptimizer, OptimConfig, schedule

RATES = OptimConfig(matrix_rate=1.0, embedding_rate=2.0, head_rate=3.0, scale_rate=4.0, lens_rate=5.0)


def optimizer_of(*shapes: tuple[str, tuple[int, ...]], config: OptimConfig = RATES) -> MasterOptimizer:
    return MasterOptimizer([(name, nn.Parameter(torch.ones(shape))) for name, shape in shapes], config)


@pytest.mark.parametrize(
    ("name", "shape", "rate"),
    [
        ("core.layers.0.attention.q_proj.weight", (4, 4), 1.0),
        ("core.embed_tokens.weight", (8, 4), 2.0),
        ("gist_net.level_embed.weight", (8, 4), 2.0),
        ("core.head.weight", (8, 4), 3.0),
        ("core.layers.0.q_gain", (4,), 4.0),
        ("core.norm.weight", (4,), 4.0),
        ("lens_net.up.weight", (4, 4), 5.0),
        ("lens_net.head.weight", (4, 4), 5.0),
    ],
)
def test_each_kind_of_weight_has_its_rate(name: str, shape: tuple[int, ...], rate: float) -> None:
    optimizer = optimizer_of((name, shape))
    (group,) = [group for one in optimizer.optimizers for group in one.param_groups]
    assert group["lr"] == rate
    assert type(optimizer.optimizers[0]).__name__ == ("Muon" if rate == 1.0 else "AdamW")


def test_a_step_follows_the_factor_and_says_the_norm_before_clipping() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = MasterOptimizer([("norm.weight", weight)], OptimConfig(scale_rate=0.1))
    weight.grad = torch.ones(4)
    assert optimizer.step(0.5) == pytest.approx(2.0)
    gradient = optimizer.masters["norm.weight"].grad
    assert gradient is not None
    assert float(gradient.norm()) == pytest.approx(1.0)  # clipped
    torch.testing.assert_close(weight.detach(), torch.full((4,), 0.95))  # AdamW's first step is the rate itself
    assert weight.grad is None
    weight.grad = torch.full((4,), 0.1)
    assert optimizer.step(0.0) == pytest.approx(0.2)
    gradient = optimizer.masters["norm.weight"].grad
    assert gradient is not None
    assert float(gradient.norm()) == pytest.approx(0.2)  # short enough
    torch.testing.assert_close(weight.detach(), torch.full((4,), 0.95))


def test_the_factor_is_of_the_peak_and_not_of_the_last_rate() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = MasterOptimizer([("norm.weight", weight)], OptimConfig(scale_rate=0.1))
    for _ in range(3):
        weight.grad = torch.ones(4)
        optimizer.step(0.5)
    assert optimizer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)
    torch.testing.assert_close(weight.detach(), torch.full((4,), 0.85))


def test_masters_keep_what_bfloat16_rounds_away() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterOptimizer([("norm.weight", weight)], OptimConfig(scale_rate=1e-3))
    for _ in range(4):
        weight.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step(1.0)
    torch.testing.assert_close(optimizer.masters["norm.weight"].detach(), torch.full((4,), 0.996))
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.detach().float(), torch.full((4,), 0.99609375))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_moves_where_a_gradient_is_no_number(bad: float) -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = MasterOptimizer([("norm.weight", weight)], OptimConfig())
    weight.grad = torch.tensor([1.0, bad, 1.0, 1.0])
    assert not torch.tensor(optimizer.step(1.0)).isfinite()
    torch.testing.assert_close(weight.detach(), torch.ones(4))


def test_the_schedule_rises_stands_and_falls() -> None:
    def factor(progress: float, step: int) -> float:
        return schedule(progress, step, warmup_steps=10, decay_from=0.5, floor=0.02)

    assert [factor(0.0, step) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [factor(progress, 1000) for progress in (0.49, 0.5, 0.75, 0.999, 1.0)] == pytest.approx(
        [1.0, 1.0, 0.5, 0.02, 0.02]
    )
    assert factor(0.75, 4) == pytest.approx(0.25)
