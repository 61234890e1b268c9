"""Two processes that train one model, against one process that sees what both see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.test_lens_variants import KIND as TOLD
from tests.training.test_lens_variants import learner_with_lens
from torch import nn

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.testing.fake_core import TINY_CORE
from megacontext.training.core_model import window_loss
from megacontext.training.curriculum import BatchKind, Stage, draw_batch
from megacontext.training.loop import LoopConfig, LossFunction
from megacontext.training.optim import MasterOptimizer, OptimConfig, schedule
from megacontext.training.team import ALONE, join_team
from megacontext.training.windows import TextSource

NUM_STEPS = 4
STAGE = Stage(
    name="both",
    gate="dense",
    batches=(
        BatchKind(name="dense", share=0.5, rows=2, length=64, mix={"dense": 1.0}),
        BatchKind(name="text", share=0.5, rows=2, length=32, mix={"plain": 1.0}),
    ),
)
LENS_STAGE = Stage(
    name="lens",
    batches=(replace(TOLD, share=0.5), BatchKind(name="text", share=0.5, rows=2, length=32, mix={"plain": 1.0})),
)
CONFIG = LoopConfig(num_steps=NUM_STEPS, seed=5, log_every=1, checkpoint_every=100)

MEMBER = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tests.training.test_team import ARMS
from megacontext.training.loop import TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.team import join_team
torch.set_num_threads(1)
team = join_team()
assert team.size == 2
source = torch.load(sys.argv[2], weights_only=False)
out = Path(sys.argv[3])
weights, loss, stage, config = ARMS[sys.argv[4]]()
optimizer = MasterOptimizer(weights, OptimConfig(), team=team)
loop = TrainingLoop(loss=loss, optimizer=optimizer, source=source, stages=[stage], config=config, out=out)
loop.run()
torch.save({"masters": optimizer.masters, "state": vars(loop.state)}, out / f"rank_{team.rank}.pt")
"""
Arm = tuple[Iterable[tuple[str, nn.Parameter]], LossFunction, Stage, LoopConfig]


def core_arm() -> Arm:
    """A core alone, a batch a step."""
    torch.manual_seed(0)
    core = Core(replace(TINY_CORE, vocab_size=512))
    return core.named_parameters(), lambda batch: window_loss(core, *batch.tensors, compiled=False), STAGE, CONFIG


def lens_arm() -> Arm:
    """Core, GistNet and lens, two batches a step, of which one has moments that a lens is asked at, or none."""
    learner = learner_with_lens()
    weights, config = learner.learned_parameters(), replace(CONFIG, micro_batches=2)
    return weights, lambda batch: learner.loss(batch, compiled=False), LENS_STAGE, config


ARMS = {"core": core_arm, "lens": lens_arm}


@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_step_as_one_that_sees_both_batches(source: TextSource, tmp_path: Path, arm: str) -> None:
    torch.save(source, tmp_path / "source.pt")
    (tmp_path / "member.py").write_text(MEMBER)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = (tmp_path / "member.py", root, tmp_path / "source.pt", tmp_path / "run", arm)
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "run" / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["masters"][name], second["masters"][name]) for name in first["masters"])
    for name in ("step", "tokens", "seconds", "gate_nlls", "stage"):
        assert first["state"][name] == second["state"][name]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == NUM_STEPS, "one writes the log"

    weights, loss, stage, config = ARMS[arm]()
    optimizer, count = MasterOptimizer(weights, OptimConfig()), config.micro_batches
    before = {name: master.clone() for name, master in optimizer.masters.items()}
    for step in range(NUM_STEPS):
        losses = [
            loss(draw_batch(source, stage, seed=config.seed, step=step, rank=rank, part=(part, count)))[0]
            for rank in (0, 1)
            for part in range(count)
        ]
        (sum(losses) / len(losses)).backward()
        optimizer.step(schedule(step / NUM_STEPS, step, warmup_steps=config.warmup_steps, decay_from=config.decay_from))
    for name, master in optimizer.masters.items():
        missed = (first["masters"][name] - master).norm()
        assert missed <= 0.1 * (master - before[name]).norm(), name
        if arm == "core":  # of a lens single weights whose slopes are all but zero may go either way
            torch.testing.assert_close(first["masters"][name], master, atol=1e-5, rtol=1e-4)


def test_processes_get_the_same_kind_and_other_rows(source: TextSource) -> None:
    for step in range(6):
        ours, theirs = (draw_batch(source, STAGE, seed=0, step=step, rank=rank) for rank in (0, 1))
        assert ours.kind == theirs.kind
        assert not torch.equal(ours.ids_BT, theirs.ids_BT)


def test_without_a_launcher_there_is_a_team_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_team() == ALONE
    assert ALONE.mean(3.5) == 3.5
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InvalidValueError, match=r"WORLD_SIZE is 2, but RANK, .* not set"):
        join_team()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InvalidValueError, match="WORLD_SIZE is 'two'"):
        join_team()
