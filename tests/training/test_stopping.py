"""Runs that cannot go on: they stop before anything moves, say why in one line, and leave the last checkpoint alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megacontext.errors import TrainingError
from megacontext.training.curriculum import Batch, BatchKind, Stage, draw_batch
from megacontext.training.gist_cuts import GistCut
from megacontext.training.loop import LoopConfig, LossFunction, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.reference import ReferenceConfig, build_reference, window_loss
from megacontext.training.stopping import placing
from megacontext.training.windows import TextSource

TINY = ReferenceConfig(
    vocab_size=512, width=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=32, max_positions=256
)
KIND = BatchKind(name="dense", share=1.0, rows=8, length=128, mix={"dense": 0.5, "plain": 0.5})
STAGE = Stage(name="natural", batches=(KIND,))
NO_MACHINE_HAS = 1 << 50  # bytes
Spoiler = Callable[[Batch, Tensor, Tensor], tuple[Tensor, Tensor]]


def make_loop(source: TextSource, out: Path, *, spoil: Spoiler | None = None, stage: Stage = STAGE) -> TrainingLoop:
    """A loop over a tiny model whose loss ``spoil`` may change."""
    model = build_reference(TINY, seed=0)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        whole, losses_BT = window_loss(model, *batch.tensors, compiled=False)
        return (whole, losses_BT) if spoil is None else spoil(batch, whole, losses_BT)

    checked: LossFunction = loss
    return TrainingLoop(
        loss=checked,
        optimizer=MasterOptimizer(model.named_parameters(), OptimConfig()),
        source=source,
        stages=(stage,),
        config=LoopConfig(num_steps=9, seed=5, warmup_steps=4, log_every=5, checkpoint_every=2),
        out=out,
    )


def digest(out: Path) -> str:
    return hashlib.sha256((out / "checkpoint.pt").read_bytes()).hexdigest()


def steep(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
    """A loss that is finite, but of endless slope."""
    return whole + (whole - whole.detach()).sqrt(), losses_BT


def hungry_above(most_rows: int) -> Spoiler:
    """Batches of more rows do not fit into memory."""

    def spoil(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
        if len(batch.ids_BT) > most_rows:
            torch.empty(NO_MACHINE_HAS, dtype=torch.uint8)
        return whole, losses_BT

    return spoil


def spoil_at(step: int, loop_of: list[TrainingLoop], spoil: Spoiler) -> Spoiler:
    return lambda batch, whole, losses_BT: (
        spoil(batch, whole, losses_BT) if loop_of[0].state.step == step else (whole, losses_BT)
    )


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_the_run_before_it_moves(source: TextSource, tmp_path: Path, value: str) -> None:
    def poison(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
        losses_BT = losses_BT.clone()
        losses_BT[3, 17] = float(value)
        return whole * float(value), losses_BT

    loops: list[TrainingLoop] = []
    loops.append(make_loop(source, tmp_path, spoil=spoil_at(5, loops, poison)))
    loop = loops[0]
    loop.run(until_step=5)
    before = {name: master.clone() for name, master in loop.optimizer.masters.items()}
    saved = digest(tmp_path)
    with pytest.raises(TrainingError) as caught:
        loop.run()
    said = str(caught.value)
    assert f"step 5: the loss is {value} on batch 'dense' of stage 'natural' (8 rows of 128 tokens)" in said
    assert "at row 3 (" in said
    assert "position 17" in said
    assert "checkpoint.pt (step 5) is as it was; --resume with another seed in [loop]" in said
    assert "\n" not in said
    assert digest(tmp_path) == saved
    assert all(torch.equal(before[name], master) for name, master in loop.optimizer.masters.items())
    kept = torch.load(tmp_path / "failed_batch.pt", weights_only=True)
    assert (kept["step"], kept["ids_BT"].shape) == (5, (8, 128))
    assert len(kept["row_kinds"]) == 8
    assert not kept["losses_BT"][3, 17].isfinite()


def test_another_seed_goes_on_past_the_batch_that_failed(source: TextSource, tmp_path: Path) -> None:
    failing = draw_batch(source, STAGE, seed=5, step=4).ids_BT

    def poison(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
        return (whole * float("nan") if torch.equal(batch.ids_BT, failing) else whole), losses_BT

    make_loop(source, tmp_path, spoil=poison).run(until_step=4)
    same = make_loop(source, tmp_path, spoil=poison)
    same.resume()
    with pytest.raises(TrainingError, match="step 4: the loss is nan"):
        same.run()
    other = make_loop(source, tmp_path, spoil=poison)
    other.config = replace(other.config, seed=6)
    other.resume()
    assert other.run().step == 9


def test_a_gradient_that_is_no_number_stops_the_run(source: TextSource, tmp_path: Path) -> None:
    loop = make_loop(source, tmp_path, spoil=steep)
    before = {name: master.clone() for name, master in loop.optimizer.masters.items()}
    with pytest.raises(
        TrainingError, match=r"step 0: the norm of the gradient is nan .*no checkpoint yet; start again"
    ):
        loop.run()
    assert all(torch.equal(before[name], master) for name, master in loop.optimizer.masters.items())
    assert not (tmp_path / "checkpoint.pt").exists()


def test_weights_that_are_no_numbers_never_replace_a_checkpoint(source: TextSource, tmp_path: Path) -> None:
    loop = make_loop(source, tmp_path)
    loop.run(until_step=2)
    saved = digest(tmp_path)
    next(iter(loop.optimizer.masters.values()))[0] = float("nan")
    with pytest.raises(TrainingError, match=r"embed_tokens\.weight holds values that are no numbers"):
        loop.save()
    assert digest(tmp_path) == saved


def test_what_does_not_fit_outside_of_a_step_is_one_line() -> None:
    with (
        pytest.raises(TrainingError, match=r"out of memory on the model's weights on cuda:0 \(CUDA out of") as caught,
        placing("the model's weights", 10**9, torch.device("cuda", 0), fix="take a smaller [model]"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
    assert (
        "1,000,000,000 weights with masters, gradients and moments take about 16.0 GB before any batch: take a"
        in str(caught.value)
    )
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        placing("weights", 1, torch.device("cpu"), fix="none"),
    ):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("most_rows", "advice"),
    [
        (2, "2 rows of 128 tokens fit (tried): give the batch rows = 2, or"),
        (1, "1 row of 128 tokens fit (tried): give the batch rows = 1, or"),
        (0, "not even a fraction of one row fits: take a smaller [model]"),
    ],
)
def test_a_batch_that_does_not_fit_says_what_would(
    source: TextSource, tmp_path: Path, most_rows: int, advice: str
) -> None:
    loops: list[TrainingLoop] = []
    loops.append(
        make_loop(
            source,
            tmp_path,
            spoil=lambda batch, whole, losses_BT: (
                hungry_above(most_rows)(batch, whole, losses_BT) if loops[0].state.step >= 2 else (whole, losses_BT)
            ),
        )
    )
    loops[0].run(until_step=2)
    saved = digest(tmp_path)
    with pytest.raises(TrainingError) as caught:
        loops[0].run()
    said = str(caught.value)
    assert said.startswith("step 2: out of memory on batch 'dense' of stage 'natural' (8 rows of 128 tokens)")
    assert advice in said
    assert "checkpoint.pt (step 2) is as it was; --resume then" in said
    assert "\n" not in said
    assert digest(tmp_path) == saved


@pytest.mark.parametrize(("most_rows", "advice"), [(4, "rows = 4, or"), (2, "rows = 2 and variants = 2, or")])
def test_rows_that_stand_in_several_windows_go_together(
    source: TextSource, tmp_path: Path, most_rows: int, advice: str
) -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=5, num_open=2, variants=4)
    kind = BatchKind(name="told", share=1.0, rows=8, length=512, mix={"plain": 1.0}, gists=cut)
    with pytest.raises(TrainingError, match=rf"of 512 tokens fit \(tried\): give the batch {advice}"):
        make_loop(source, tmp_path, spoil=hungry_above(most_rows), stage=Stage(name="lens", batches=(kind,))).run()


def test_a_gradient_of_several_micro_batches_names_all_of_them(source: TextSource, tmp_path: Path) -> None:
    stage = Stage(name="both", batches=(replace(KIND, share=0.5), replace(KIND, name="other", share=0.5)))
    loop = make_loop(source, tmp_path, spoil=steep, stage=stage)
    loop.config = replace(loop.config, micro_batches=2)
    with pytest.raises(
        TrainingError, match=r"is nan after 2 micro-batches \(dense, other\), the last on batch 'other'"
    ):
        loop.run()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()], ids=["gpu", "python"]
)
def test_every_allocator_is_understood(source: TextSource, tmp_path: Path, error: Exception) -> None:
    def hungry(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
        if len(batch.ids_BT) > 4:
            raise error
        return whole, losses_BT

    with pytest.raises(TrainingError, match=r"out of memory .* 4 rows of 128 tokens fit"):
        make_loop(source, tmp_path, spoil=hungry).run()


def test_the_length_shrinks_where_one_row_is_too_much(source: TextSource, tmp_path: Path) -> None:
    def hungry(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
        if batch.ids_BT.shape[1] > 32:
            torch.empty(NO_MACHINE_HAS, dtype=torch.uint8)
        return whole, losses_BT

    stage = replace(STAGE, batches=(replace(KIND, rows=2, mix={"plain": 1.0}),))
    with pytest.raises(
        TrainingError, match=r"1 row of 32 tokens fit \(tried\): give the batch rows = 1 and length = 32"
    ):
        make_loop(source, tmp_path, spoil=hungry, stage=stage).run()


def test_other_errors_are_not_taken_for_it(source: TextSource, tmp_path: Path) -> None:
    def broken(batch: Batch, whole: Tensor, losses_BT: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        make_loop(source, tmp_path, spoil=broken).run()
