"""What a run would take, before it is started: weights, memory, and time, from real steps on made-up tokens.

Weights and optimiser are counted, not guessed. What the forward pass keeps for the backward pass is measured in such a
step, and so is, on Linux, the most that the process held, scratch and all. Time is that of whole steps (forward,
backward, optimiser), without drawing rows; a run is their sum over its stages, every gate opening as early as it may.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from megacontext.bases.precision import working_dtype
from megacontext.errors import TrainingError
from megacontext.training.curriculum import Batch, BatchKind, Stage, batch_of
from megacontext.training.gauges import num_weights
from megacontext.training.gist_cuts import UNJOINED, GistCut
from megacontext.training.optim import MasterOptimizer
from megacontext.training.plan import Plan
from megacontext.training.recipe import Learner
from megacontext.training.resident import forget_peak, peak_bytes, resident_bytes
from megacontext.training.settings import Settings
from megacontext.training.stopping import is_out_of_memory
from megacontext.training.windows import Window

__all__ = ["BatchCost", "RunCost", "run_cost"]

ENOUGH_SECONDS = 10.0  # a first step that takes as long is measured; a shorter one only warms up


@dataclass(frozen=True, kw_only=True)
class BatchCost:
    """What one step on batches of a kind takes.

    seconds: by the clock; busy_seconds: of the processor in this process, less where other programs take their share;
    kept_bytes: from the forward for the backward pass; peak_bytes: the most that was resident in the step, beyond what
    the process held before anything was built, None where nobody counts it.
    """

    name: str
    rows: int
    length: int
    shows_gists: bool
    seconds: float
    busy_seconds: float
    kept_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What a configured run takes.

    weights: of each part; optimizer_bytes: masters' moments; gradient_bytes: in the weights' precision and, if that is
    another, the masters'; run_seconds, run_busy_seconds, run_tokens: of ``num_steps`` steps, where every micro-batch
    counts as a step of its own.
    """

    weights: dict[str, int]
    weight_bytes: int
    master_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    batches: tuple[BatchCost, ...]
    num_steps: int
    run_seconds: float
    run_busy_seconds: float
    run_tokens: float

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs took so much of the processor that an idle machine would be much faster."""
        return sum(batch.busy_seconds for batch in self.batches) < 0.8 * sum(batch.seconds for batch in self.batches)

    @property
    def kept_bytes(self) -> int:
        """Of the largest batch."""
        return max(batch.kept_bytes for batch in self.batches)

    @property
    def peak_bytes(self) -> int | None:
        """Of the batch that took most, None where nobody counts it."""
        return max((batch.peak_bytes for batch in self.batches if batch.peak_bytes is not None), default=None)

    @property
    def total_bytes(self) -> int:
        """Everything that is known to be in memory at once; scratch comes on top."""
        return self.weight_bytes + self.master_bytes + self.gradient_bytes + self.optimizer_bytes + self.kept_bytes


def run_cost(
    settings: Settings,
    build: Callable[[Settings, int], Learner],
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> RunCost:
    """Build what the settings describe, take a step or two on every kind of batch, and add up. tell: hears of progress.

    Raises InvalidValueError for settings that no run could have, TrainingError if a kind of batch does not fit into
    memory.
    """
    plan = Plan.read(settings)
    config, stages = plan.loop, plan.stages
    gc.collect()  # of a configuration before this one
    before = resident_bytes()
    learner = build(settings, config.seed)
    learner.place(torch.device("cpu"))
    optimizer = MasterOptimizer(learner.weights, plan.optim)
    kinds: list[BatchKind] = []
    for kind in (_largest(kind) for stage in stages for kind in stage.batches):
        if not any(_same(kind, known) for known in kinds):
            kinds.append(kind)
    costs = []
    for kind in kinds:
        tell(f"{settings.path}: {kind.rows} x {kind.length:,} tokens{' with gists' if kind.gists else ''}")
        costs.append(_batch_cost(learner, optimizer, kind, settings, before))

    def over_the_run(figure: Callable[[BatchCost], float]) -> float:
        total = 0.0
        for stage, count in zip(stages, _steps(stages, config.num_steps), strict=True):
            for kind in stage.batches:
                cost = next(cost for known, cost in zip(kinds, costs, strict=True) if _same(_largest(kind), known))
                total += count * kind.share / sum(one.share for one in stage.batches) * figure(cost)
        return total * config.micro_batches

    masters = optimizer.masters.values()
    narrow = working_dtype(torch.device("cpu")) != torch.float32  # else a master takes the weight's own gradient
    states = (state for one in optimizer.optimizers for state in one.state.values())
    return RunCost(
        weights={name: num_weights(part) for name, part in learner.parts.items()},
        weight_bytes=_bytes(weight for part in learner.parts.values() for weight in part.parameters()),
        master_bytes=_bytes(masters),
        gradient_bytes=_bytes(masters) + (_bytes(optimizer.weights.values()) if narrow else 0),
        optimizer_bytes=_bytes(value for state in states for value in state.values() if isinstance(value, Tensor)),
        batches=tuple(costs),
        num_steps=config.num_steps,
        run_seconds=over_the_run(lambda cost: cost.seconds),
        run_busy_seconds=over_the_run(lambda cost: cost.busy_seconds),
        run_tokens=over_the_run(lambda cost: cost.rows * cost.length),
    )


def _largest(kind: BatchKind) -> BatchKind:
    """The kind with the shape of its windows that has most entries."""
    if kind.gists is None:
        return kind
    cut = kind.gists

    def entries(shape: tuple[int, int]) -> int:
        shown = cut.num_tail + cut.num_open
        return shown * shape[0] + (kind.length // shape[0] - shown) * shape[1]

    return dataclasses.replace(
        kind, gists=dataclasses.replace(cut, shapes=(max(cut.shapes, key=entries),), joins=(UNJOINED,))
    )


def _same(one: BatchKind, other: BatchKind) -> bool:
    def shown(cut: GistCut | None) -> object:
        return None if cut is None else (tuple(cut.shapes), cut.num_tail, cut.num_open, cut.variants)

    return (one.rows, one.length, shown(one.gists)) == (other.rows, other.length, shown(other.gists))


def _made_up(kind: BatchKind, vocab_size: int) -> Batch:
    """A batch of random tokens, every one a target."""
    draw = np.random.default_rng(0)
    rows = [
        Window(
            tokens_T=draw.integers(0, vocab_size, kind.length),
            targets_T=draw.integers(0, vocab_size, kind.length),
            weights_T=np.ones(kind.length, np.float32),
        )
        for _ in range(kind.num_drawn)
    ]
    return batch_of(kind, (next(iter(kind.mix)),) * kind.num_drawn, rows, Random(0))


def _batch_cost(
    learner: Learner, optimizer: MasterOptimizer, kind: BatchKind, settings: Settings, before: int | None
) -> BatchCost:
    counts = before is not None and forget_peak()
    try:
        cost = _measured(learner, optimizer, kind, settings.vocab_size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{settings.path}: {kind.rows} rows of {kind.length:,} tokens (batch {kind.name!r}) do not fit into "
            "memory; give the batch fewer rows, or take a smaller [model]"
        ) from error
    peak = peak_bytes() if counts else None
    return cost if peak is None or before is None else dataclasses.replace(cost, peak_bytes=max(0, peak - before))


def _measured(learner: Learner, optimizer: MasterOptimizer, kind: BatchKind, vocab_size: int) -> BatchCost:
    batch = _made_up(kind, vocab_size)
    weights = {weight.untyped_storage().data_ptr() for part in learner.parts.values() for weight in part.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    began, began_busy = time.monotonic(), time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = learner.loss(batch)
    _finish(loss, optimizer)
    if time.monotonic() - began < ENOUGH_SECONDS or _is_compiled(learner):
        began, began_busy = time.monotonic(), time.process_time()
        _finish(learner.loss(batch)[0], optimizer)
    return BatchCost(
        name=kind.name,
        rows=kind.rows,
        length=kind.length,
        shows_gists=kind.gists is not None,
        seconds=time.monotonic() - began,
        busy_seconds=time.process_time() - began_busy,
        kept_bytes=sum(kept.values()),
        peak_bytes=None,
    )


def _finish(loss: Tensor, optimizer: MasterOptimizer) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step(0.0)


def _is_compiled(learner: Learner) -> bool:
    """Whether a first step spends its time on compiling."""
    return any(module._compiled_call_impl is not None for part in learner.parts.values() for module in part.modules())


def _steps(stages: tuple[Stage, ...], num_steps: int) -> list[float]:
    """Steps of each stage if every gate opens as early as it may."""
    left, counts = num_steps, []
    for stage in stages[:-1]:
        counts.append(min(left, stage.min_steps))
        left -= counts[-1]
    return [*counts, left]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
