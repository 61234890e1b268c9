"""The training loop: seeded, resumable to the bit, watched through a progress bar, a JSON-lines log and trackers."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from megacontext.errors import CorruptionError, InvalidValueError, TrainingError
from megacontext.training.checkpoint import Identity, differences, read_checkpoint, write_checkpoint
from megacontext.training.curriculum import Batch, Stage, draw_batch
from megacontext.training.finite import first_not_finite
from megacontext.training.gauges import Gauges
from megacontext.training.meter import Meter, label_of
from megacontext.training.optim import MasterOptimizer, schedule
from megacontext.training.run_logs import drop_torn_line
from megacontext.training.stopping import Where, checkpoint_line, is_out_of_memory, not_finite, out_of_memory, what_fits
from megacontext.training.trackers import Tracker
from megacontext.training.windows import TextSource
from megacontext.values import number, whole_number

__all__ = ["LoopConfig", "LoopState", "LossFunction", "TrainingLoop"]

MOST_MICRO_BATCHES = 1024

LossFunction = Callable[[Batch], tuple[Tensor, Tensor]]
"""The weighted mean to differentiate, and the loss of every position [B, T]."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how often. With `max_minutes` the rates follow the clock and `num_steps` is only the upper limit.

    micro_batches: batches of a step, of different kinds as far as their shares say so; the gradient is their mean;
    peak_tflops: what utilisation is measured against, in 10^12 operations a second; measured at the start if left out;
    probe_every: steps between two looks at held-out text, where a run has some.
    """

    num_steps: int
    seed: int = 0
    max_minutes: float | None = None
    warmup_steps: int = 50
    decay_from: float = 0.5
    micro_batches: int = 1
    log_every: int = 20
    checkpoint_every: int = 200
    peak_tflops: float | None = None
    probe_every: int = 200

    def __post_init__(self) -> None:
        for name in ("num_steps", "warmup_steps", "log_every", "checkpoint_every", "probe_every"):
            whole_number(name, getattr(self, name), least=1)
        whole_number("micro_batches", self.micro_batches, least=1, most=MOST_MICRO_BATCHES)
        whole_number("seed", self.seed)
        number("decay_from", self.decay_from, least=0, below=1)
        for name in ("max_minutes", "peak_tflops"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), above=0)


@dataclass(kw_only=True)
class LoopState:
    """Where a run is; everything that a resumed run needs beside weights and optimiser."""

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    tokens_by_row_kind: dict[str, int] = field(default_factory=dict)
    gate_nlls: list[float] = field(default_factory=list)
    stage_ends: list[dict[str, float]] = field(default_factory=list)


class TrainingLoop:
    """Runs a curriculum; one call of `run` trains to the end, from a checkpoint if there is one to resume."""

    def __init__(
        self,
        *,
        loss: LossFunction,
        optimizer: MasterOptimizer,
        source: TextSource,
        stages: Sequence[Stage],
        config: LoopConfig,
        out: Path,
        identity: Identity | None = None,
        gauges: Gauges | None = None,
        judge: Callable[[], Mapping[str, float]] | None = None,
        given_seed: int | None = None,
        given_minutes: float | None = None,
    ) -> None:
        self.loss, self.optimizer, self.source = loss, optimizer, source
        self.team = optimizer.team
        self.stages, self.config, self.out = tuple(stages), config, out
        self.identity: Identity = identity or {}
        self.state = LoopState()
        self.saved_step: int | None = None
        self.meter = Meter(gauges or Gauges())
        self.judge = judge
        self.given_seed = given_seed
        """That of the command line, for a run that goes on without being told again; so with ``given_minutes``."""
        self.given_minutes = given_minutes
        out.mkdir(parents=True, exist_ok=True)

    @property
    def progress(self) -> float:
        """Share of the run that is over: by the clock if the run has one, else by steps."""
        by_steps = self.state.step / self.config.num_steps
        if self.config.max_minutes is None:
            return by_steps
        return max(by_steps, self.state.seconds / (60 * self.config.max_minutes))

    def run(self, *, until_step: int | None = None, trackers: Sequence[Tracker] = ()) -> LoopState:
        """Train until the run is over (or `until_step`), leaving a checkpoint; trackers are closed at the end."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        if self.team.is_first:
            drop_torn_line(self.out / "log.jsonl")
        with (
            Progress(*columns, console=Console(stderr=True), disable=not self.team.is_first) as bar,
            (self.out / "log.jsonl" if self.team.is_first else Path(os.devnull)).open("a") as log,
            ExitStack() as closing,
        ):
            for tracker in trackers:
                closing.callback(tracker.close)
            closing.enter_context(self._interrupted())
            task = bar.add_task("training", total=self.config.num_steps, completed=self.state.step)
            while self.progress < 1 and self.state.step != until_step:
                self.step()
                if self.judge is not None and self.state.step % self.config.probe_every == 0:
                    self.meter.note(**self.judge())
                if self.state.step % self.config.log_every == 0:
                    record = self.record()
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    figures = {key: value for key, value in record.items() if isinstance(value, float)}
                    for tracker in trackers:
                        tracker.log(figures, self.state.step)
                    bar.update(task, completed=self.state.step, description=_described(record))
                if self.state.step % self.config.checkpoint_every == 0:
                    self.save()
        if self.saved_step != self.state.step:
            self.save()
        return self.state

    @contextmanager
    def _interrupted(self) -> Iterator[None]:
        """Ctrl-C: say from where the run goes on."""
        try:
            yield
        except KeyboardInterrupt:
            if self.team.is_first:
                line = f"interrupted at step {self.state.step}. {checkpoint_line(self._where)}"
                Console(stderr=True).print(line, soft_wrap=True, markup=False, highlight=False)
            raise

    def step(self) -> None:
        """One step: draw, differentiate, step, count, and move to the next stage when the gate opens."""
        began = time.monotonic()
        state, stage = self.state, self.stages[self.state.stage]
        factor = schedule(
            self.progress, state.step, warmup_steps=self.config.warmup_steps, decay_from=self.config.decay_from
        )
        batches: list[Batch] = []
        for index in range(self.config.micro_batches):
            batches.append(batch := self._draw(stage, index))
            try:
                losses_BT = self._differentiate(batch)
                if index + 1 == self.config.micro_batches:
                    norm = self._move(batches, losses_BT, factor)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise self._out_of_memory(error, batch, stage) from error
            self._measure(batch, losses_BT, stage)
        self.meter.note(grad_norm=norm, rate=factor)
        state.step += 1
        state.stage_step += 1
        state.tokens += sum(batch.ids_BT.numel() for batch in batches) * self.team.size
        seconds = self.team.mean(time.monotonic() - began)  # rates follow the clock: it must be the same for all
        state.seconds += seconds
        self.meter.count(batches, seconds, num_processes=self.team.size)
        if state.stage + 1 < len(self.stages) and stage.is_done(state.stage_step, state.gate_nlls):
            ended = {"stage": float(state.stage), "step": float(state.step), "minutes": state.seconds / 60}
            state.stage_ends.append(ended)
            state.stage, state.stage_step, state.gate_nlls = state.stage + 1, 0, []

    def _draw(self, stage: Stage, index: int) -> Batch:
        """The micro-batch of that index of this step."""
        config, part = self.config, (index, self.config.micro_batches)
        try:
            batch = draw_batch(
                self.source, stage, seed=config.seed, step=self.state.step, rank=self.team.rank, part=part
            )
        except (AssertionError, ValueError, LookupError) as error:
            raise TrainingError(
                f"step {self.state.step}: a row of stage {stage.name!r} could not be made "
                f"({type(error).__name__}: {error}). {checkpoint_line(self._where)} with longer rows or another mix "
                "there, or with another --seed"
            ) from error
        return batch.to(self.optimizer.device)

    def _differentiate(self, batch: Batch) -> Tensor:
        """Add the batch's part of the gradient; the loss of every position."""
        loss, losses_BT = self.loss(batch)
        if not torch.isfinite(loss):
            raise not_finite(f"the loss is {loss.item()}", batch, losses_BT, self._where)
        (loss / self.config.micro_batches).backward()  # type: ignore[no-untyped-call]
        return losses_BT

    def _move(self, batches: Sequence[Batch], losses_BT: Tensor, factor: float) -> float:
        """Move by the gradient of these batches; its norm. losses_BT: of the last one."""
        norm = self.optimizer.step(factor)
        if not math.isfinite(norm):
            what = f"the norm of the gradient is {norm}"
            if len(batches) > 1:
                kinds = ", ".join(batch.kind.name for batch in batches)
                what += f" after {len(batches)} micro-batches ({kinds}), the last"
            raise not_finite(what, batches[-1], losses_BT, self._where)
        return norm

    def _out_of_memory(self, error: BaseException, batch: Batch, stage: Stage) -> TrainingError:
        step, seed = self.state.step, self.config.seed
        weights = self.optimizer.weights.values()
        fits = what_fits(self.loss, weights, self.source, batch, stage=stage, seed=seed, step=step, error=error)
        return out_of_memory(error, batch, self._where, fits=fits)

    @property
    def _where(self) -> Where:
        return Where(
            self.stages[self.state.stage], self.state.step, self.out, self.saved_step, self.team.rank, self.given_seed
        )

    def _measure(self, batch: Batch, losses_BT: Tensor, stage: Stage) -> None:
        """Note losses, count tokens by row kind, and feed the stage's gate."""
        self.meter.measure(batch, losses_BT)
        by_kind = self.state.tokens_by_row_kind
        for row_kind in batch.row_kinds:
            label = label_of(batch, row_kind)
            by_kind[label] = by_kind.get(label, 0) + batch.kind.length * self.team.size
        if batch.kind.name != stage.gate:
            return
        answers_BT = batch.answers_BT
        nats = self.team.mean(float(losses_BT[answers_BT].sum()))
        count = self.team.mean(int(answers_BT.sum()))
        if count:
            self.state.gate_nlls = [*self.state.gate_nlls, nats / count][-stage.gate_batches :]

    def record(self) -> dict[str, Any]:
        """Where the run is, and the meter's figures since the last record."""
        state = self.state
        return {
            "step": state.step,
            "stage": self.stages[state.stage].name,
            "minutes": state.seconds / 60,
            "tokens": state.tokens,
            "progress": self.progress,
            **self.meter.means(),
        }

    def save(self) -> None:
        """Write the checkpoint (the first of a team does).

        Raises TrainingError, keeping the one before, if a weight is no number.
        """
        if (name := first_not_finite(self.optimizer.masters)) is not None:
            raise TrainingError(
                f"step {self.state.step}: {name} holds values that are no numbers; {self.out / 'checkpoint.pt'} is as "
                "it was: --resume with lower rates in [optim]"
            )
        if not self.team.is_first:
            self.saved_step = self.state.step
            return
        saved = {
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
            "recent": dict(self.meter.recent),
            "given_seed": self.given_seed,
            "given_minutes": self.given_minutes,
        }
        write_checkpoint(self.out / "checkpoint.pt", {**saved, "identity": dict(self.identity)})
        self.saved_step = self.state.step

    def resume(self) -> None:
        """Go on from the checkpoint in the output folder.

        Raises InvalidValueError if there is none, or if the run was made of something else; CorruptionError if it is
        damaged.
        """
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            raise InvalidValueError(f"{self.out} has no checkpoint.pt to resume; start a run there first")
        saved = read_checkpoint(path)
        changed = differences(saved.get("identity", {}), self.identity)
        if changed:
            raise InvalidValueError(
                f"{path} cannot be resumed: {'; '.join(changed)}. Restore that, or start a new run in another folder"
            )
        try:
            state = LoopState(**saved["state"])
        except TypeError as error:
            raise CorruptionError(f"{path} is of another version ({error}); start a new run") from error
        if state.stage >= len(self.stages):
            raise InvalidValueError(
                f"{path} is in stage {state.stage + 1}, but the configuration has {len(self.stages)}; restore "
                "the others"
            )
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
        except InvalidValueError:
            raise
        except (ValueError, LookupError) as error:  # torch's optimisers compare how weights are grouped
            raise InvalidValueError(
                f"{path} was written by a version that groups weights for the optimiser in another way; go on with "
                "that version, or --start a new run from it"
            ) from error
        self.state, self.saved_step = state, state.step
        self.meter.recent.update(saved.get("recent", {}))


def _described(record: dict[str, Any]) -> str:
    """A record in a few words, for the progress bar."""
    speed = f"{record.get('tokens_per_second', 0):,.0f} tokens/s"
    utilised = f", mfu {record['mfu']:.0%}" if "mfu" in record else ""
    return f"{record['stage']} nll {record.get('nll', 0):.3f}, {speed}{utilised}"
