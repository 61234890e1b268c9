"""The core in training: seeded, its loss the plain one, and a short run through the loop learns."""

from __future__ import annotations

from pathlib import Path

import torch

from megacontext.nets.shapes import CoreConfig
from megacontext.training.core_model import build_core, hidden_states, window_loss
from megacontext.training.curriculum import BatchKind, Stage
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.windows import TextSource

TINY = CoreConfig(
    vocab_size=512, width=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=64, rotary_dims=8
)
STAGES = (
    Stage(
        name="natural",
        batches=(
            BatchKind(name="dense", share=0.5, rows=4, length=128, mix={"dense": 0.7, "plain": 0.3}),
            BatchKind(name="middle", share=0.5, rows=2, length=256, mix={"recall": 0.5, "plain": 0.5}),
        ),
    ),
)


def test_a_seed_gives_the_same_core() -> None:
    ours, same, other = (build_core(TINY, seed=seed) for seed in (1, 1, 2))
    ids_BT = torch.arange(20)[None]
    assert torch.equal(hidden_states(ours, ids_BT), hidden_states(same, ids_BT))
    assert not torch.equal(hidden_states(ours, ids_BT), hidden_states(other, ids_BT))


def test_the_loss_is_weighted_cross_entropy() -> None:
    core = build_core(TINY, seed=0).float()
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, 512, (2, 64), generator=generator)
    weights_BT = torch.rand(2, 64, generator=generator)
    loss, losses_BT = window_loss(core, ids_BT, ids_BT.roll(-1, 1), weights_BT, compiled=False)
    logits = core.logits(hidden_states(core, ids_BT)).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, ids_BT.roll(-1, 1).flatten(), reduction="none").view(2, 64)
    torch.testing.assert_close(losses_BT, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, (expected * weights_BT).sum() / weights_BT.sum(), atol=1e-4, rtol=1e-4)


def test_a_short_run_learns(source: TextSource, tmp_path: Path) -> None:
    core = build_core(TINY, seed=0)
    loop = TrainingLoop(
        loss=lambda batch: window_loss(core, *batch.tensors, compiled=False),
        optimizer=MasterOptimizer(core.named_parameters(), OptimConfig()),
        source=source,
        stages=STAGES,
        config=LoopConfig(num_steps=24, seed=5, warmup_steps=4, log_every=1, checkpoint_every=1_000),
        out=tmp_path,
    )
    first = window_loss(core, *_batch(source), compiled=False)[0].item()
    loop.run()
    assert window_loss(core, *_batch(source), compiled=False)[0].item() < first - 0.5
    assert any(shift.weight.abs().sum() > 0 for shift in core.shifts)  # what starts silent has begun to speak


def _batch(source: TextSource) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The beginning of the first domain: the same text before and after."""
    ids_T = torch.from_numpy(next(iter(source.stores.values())).ids_N[:257].astype("int64"))
    return ids_T[None, :-1], ids_T[None, 1:], torch.ones(1, 256)
