"""The loop: a seeded short run learns, and an interrupted run ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from megacontext.errors import InvalidValueError
from megacontext.training.curriculum import BatchKind, Stage, draw_batch
from megacontext.training.loop import LoopConfig, LoopState, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig, schedule
from megacontext.training.reference import ReferenceConfig, build_reference, hidden_states, window_loss
from megacontext.training.tokens import TokenStore
from megacontext.training.trackers import open_trackers
from megacontext.training.windows import TextSource

TINY = ReferenceConfig(
    vocab_size=512, width=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=64, max_positions=256
)
STAGES = (
    Stage(
        name="language",
        min_steps=6,
        batches=(BatchKind(name="short", share=1.0, rows=4, length=64, mix={"plain": 1.0}),),
    ),
    Stage(
        name="natural",
        batches=(
            BatchKind(name="dense", share=0.5, rows=4, length=128, mix={"dense": 0.7, "plain": 0.3}),
            BatchKind(
                name="middle", share=0.5, rows=2, length=256, mix={"recall": 0.4, "cut_recall": 0.4, "cut_plain": 0.2}
            ),
        ),
    ),
)


def make_loop(source: TextSource, out: Path, *, num_steps: int = 30, micro_batches: int = 1) -> TrainingLoop:
    """A loop over a tiny model, not compiled."""
    model = build_reference(TINY, seed=0)
    return TrainingLoop(
        loss=lambda batch: window_loss(model, *batch.tensors, compiled=False),
        optimizer=MasterOptimizer(model.named_parameters(), OptimConfig()),
        source=source,
        stages=STAGES,
        config=LoopConfig(
            num_steps=num_steps,
            seed=5,
            warmup_steps=4,
            micro_batches=micro_batches,
            log_every=5,
            checkpoint_every=1_000,
        ),
        out=out,
    )


def without_clock(state: LoopState) -> dict[str, object]:
    return {key: value for key, value in vars(state).items() if key not in ("seconds", "stage_ends")}


def test_a_short_run_learns(source: TextSource, tmp_path: Path) -> None:
    state = make_loop(source, tmp_path).run(trackers=open_trackers([], tmp_path, {}))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert state.step == 30
    assert state.stage == 1
    assert records[-1]["nll"] < records[0]["nll"] - 0.5
    assert state.tokens == sum(state.tokens_by_row_kind.values())
    assert list((tmp_path / "tensorboard").iterdir())
    assert all(record["tokens_per_second"] > 0 for record in records)
    assert "mfu" not in records[0]


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_resumed_run_ends_with_the_same_bits(source: TextSource, tmp_path: Path, micro_batches: int) -> None:
    whole = make_loop(source, tmp_path / "whole", num_steps=16, micro_batches=micro_batches)
    whole.run()
    first = make_loop(source, tmp_path / "parts", num_steps=16, micro_batches=micro_batches)
    first.run(until_step=9)
    second = make_loop(source, tmp_path / "parts", num_steps=16, micro_batches=micro_batches)
    second.resume()
    second.run()
    assert without_clock(second.state) == without_clock(whole.state)
    for name, master in whole.optimizer.masters.items():
        assert torch.equal(second.optimizer.masters[name], master), name
        assert torch.equal(second.optimizer.weights[name], whole.optimizer.weights[name]), name


def test_ctrl_c_says_from_where_a_run_goes_on(
    source: TextSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = make_loop(source, tmp_path, num_steps=8)
    loop.run(until_step=3)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    said = " ".join(capsys.readouterr().err.split())
    assert f"interrupted at step 3. {tmp_path / 'checkpoint.pt'} (step 3) is as it was; --resume" in said


def test_kinds_rows_and_domains_are_drawn_by_their_shares(tokenizer: Tokenizer, stores: dict[str, TokenStore]) -> None:
    source = TextSource(tokenizer, stores, {"code": 0.1, "books": 0.9})
    often = BatchKind(name="often", share=0.9, rows=1, length=64, mix={"dense": 0.1, "plain": 0.9})
    stage = Stage(name="one", batches=(replace(often, name="seldom", share=0.1), often))
    batches = [draw_batch(source, stage, seed=1, step=step) for step in range(300)]
    drawn = {
        "often": [batch.kind.name for batch in batches],
        "plain": [batch.row_kinds[0] for batch in batches],
        "books": [source.domain(Random(seed)) for seed in range(300)],
    }
    for name, names in drawn.items():
        assert 0.84 < names.count(name) / 300 < 0.96, name


def test_a_step_moves_by_the_mean_of_its_micro_batches(
    source: TextSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, by_hand = (make_loop(source, tmp_path / name, micro_batches=3) for name in ("loop", "by_hand"))
    seen: dict[str, torch.Tensor] = {}
    move = loop.optimizer.step

    def noting(factor: float) -> float:
        seen.update({name: weight.grad.float() for name, weight in loop.optimizer.weights.items()})
        return move(factor)

    monkeypatch.setattr(loop.optimizer, "step", noting)
    loop.step()
    parts = [draw_batch(source, STAGES[0], seed=5, step=0, part=(index, 3)) for index in range(3)]
    (sum(by_hand.loss(batch)[0] for batch in parts) / 3).backward()
    for name, weight in by_hand.optimizer.weights.items():
        slope = weight.grad.float()
        assert (seen[name] - slope).norm() <= 0.02 * slope.norm(), name  # bfloat16
    assert sum(bool(slope.any()) for slope in seen.values()) > 5  # of a fresh model not all
    norm = by_hand.optimizer.step(schedule(0.0, 0, warmup_steps=4))
    assert loop.meter.recent["grad_norm"] == [pytest.approx(norm, rel=0.01)]
    assert loop.state.tokens == sum(loop.state.tokens_by_row_kind.values()) == sum(b.ids_BT.numel() for b in parts)
    assert loop.state.step == 1
    assert not torch.equal(parts[0].ids_BT, parts[1].ids_BT)


def test_every_step_has_the_kinds_that_its_shares_are_worth(source: TextSource) -> None:
    names = ("half", "quarter", "eighth", "rest")
    shares = (0.5, 0.25, 0.125, 0.125)
    kinds = tuple(
        BatchKind(name=name, share=share, rows=1, length=64, mix={"plain": 1.0})
        for name, share in zip(names, shares, strict=True)
    )
    stage, counts = Stage(name="all", batches=kinds), Counter[str]()
    for step in range(40):
        drawn = [draw_batch(source, stage, seed=1, step=step, part=(index, 4)).kind.name for index in range(4)]
        assert 2 == drawn.count("half") == 2 * drawn.count("quarter")
        assert draw_batch(source, stage, seed=1, step=step, rank=1, part=(3, 4)).kind.name == drawn[3]
        counts.update(drawn)
    assert 8 <= counts["eighth"] <= 32
    assert counts["eighth"] + counts["rest"] == 40


@pytest.mark.parametrize("family", ["qwen3", "llama", "mixtral"])
def test_the_training_forward_is_the_exported_model(family: str) -> None:
    model = build_reference(replace(TINY, family=family), seed=1).float()
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
            torch.nn.init.normal_(weight, std=0.2)
    ids_BT = torch.randint(0, 512, (2, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.model(ids_BT, use_cache=False).last_hidden_state
        torch.testing.assert_close(hidden_states(model, ids_BT), expected, rtol=1e-5, atol=1e-5)


def test_chunked_loss_and_gradients_are_those_of_plain_cross_entropy() -> None:
    model = build_reference(TINY, seed=2).float()
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(0, 512, (24, 64), generator=generator)
    targets_BT = torch.randint(0, 512, (24, 64), generator=generator)
    weights_BT = torch.randint(0, 3, (24, 64), generator=generator).float()
    loss, _ = window_loss(model, ids_BT, targets_BT, weights_BT, compiled=False)
    loss.backward()
    slopes = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    losses_N = torch.nn.functional.cross_entropy(
        model(ids_BT).logits.flatten(0, 1), targets_BT.flatten(), reduction="none"
    )
    expected = (losses_N * weights_BT.flatten()).sum() / weights_BT.sum()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, dict(model.named_parameters())[name].grad, rtol=1e-3, atol=1e-6)


def test_rates_warm_up_stay_and_fall() -> None:
    assert schedule(0.0, 0, warmup_steps=10) == pytest.approx(0.1)
    assert schedule(0.3, 100) == 1.0
    assert schedule(0.75, 100) == pytest.approx(0.5)
    assert schedule(1.0, 100) == pytest.approx(0.02)


def test_a_gate_opens_on_answers_not_on_time() -> None:
    stage = Stage(
        name="dense", batches=STAGES[1].batches, min_steps=3, gate="dense", max_answer_nll=0.2, gate_batches=2
    )
    assert not stage.is_done(1_000, [3.0, 0.5])
    assert not stage.is_done(2, [0.1, 0.1])
    assert not stage.is_done(1_000, [0.1])
    assert stage.is_done(3, [3.0, 0.1, 0.1])


def test_small_steps_survive_in_the_masters() -> None:
    weight = torch.nn.Parameter(torch.full((4,), 256.0, dtype=torch.bfloat16))
    optimizer = MasterOptimizer([("norm.weight", weight)], OptimConfig(scale_rate=0.01))
    for _ in range(200):
        weight.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step(1.0)
    assert weight.detach()[0].item() < 256.0


def test_nothing_to_resume_is_said(source: TextSource, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="no checkpoint"):
        make_loop(source, tmp_path).resume()
