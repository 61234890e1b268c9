"""Why a run stops before its time: a loss that is no number, or a batch that does not fit into memory.

Both are found before the optimiser moves, and both leave the last checkpoint as it is.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from megacontext.errors import MegaContextError, TrainingError
from megacontext.training.curriculum import Batch, BatchKind, Stage, draw_batch
from megacontext.training.tokens import first_line
from megacontext.training.windows import TextSource

__all__ = [
    "Where",
    "building",
    "checkpoint_line",
    "is_out_of_memory",
    "not_finite",
    "out_of_memory",
    "placing",
    "what_fits",
]

BYTES_PER_WEIGHT = 2 + 2 + 4 + 4 + 4  # it and its gradient in bfloat16; master, its gradient and a moment in float32
FAILED_BATCH = "failed_batch.pt"
ALLOCATORS = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")  # in a RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of a device or of the processor had nothing left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS)


@dataclass(frozen=True)
class Where:
    """Where a run was when it stopped. saved_step: that of its last checkpoint, None if there is none; rank: of the
    process in its team; given_seed: that of the command line, if there was one."""

    stage: Stage
    step: int
    out: Path
    saved_step: int | None
    rank: int = 0
    given_seed: int | None = None


def not_finite(what: str, batch: Batch, losses_BT: Tensor, where: Where) -> TrainingError:
    """The error for a step whose loss or gradient is no number; the batch is kept for a look. what: which, and what."""
    place = ""
    bad = (~torch.isfinite(losses_BT)).nonzero()
    if len(bad):
        row, position = bad[0].tolist()
        place = f", first at row {row} ({batch.row_kinds[row]}), position {position}"
    kept = {
        "step": where.step,
        "stage": where.stage.name,
        "batch": batch.kind.name,
        "row_kinds": list(batch.row_kinds),
        "ids_BT": batch.ids_BT.cpu(),
        "targets_BT": batch.targets_BT.cpu(),
        "weights_BT": batch.weights_BT.cpu(),
        "losses_BT": losses_BT.detach().cpu().clone(),
    }
    kept_at = where.out / (f"failed_batch_{where.rank}.pt" if where.rank else FAILED_BATCH)
    partial = kept_at.with_suffix(".partial")
    torch.save(kept, partial)
    partial.replace(kept_at)
    seed = "another seed in [loop]" if where.given_seed is None else f"another --seed than {where.given_seed}"
    return TrainingError(
        f"step {where.step}: {what} on {_described(batch.kind, where.stage)}, rows of {_kinds(batch)}{place}; nothing "
        f"was moved. The batch is in {kept_at} (torch.load). {checkpoint_line(where)} with {seed} (other batches) "
        "or lower rates in [optim]"
    )


def out_of_memory(error: BaseException, batch: Batch, where: Where, *, fits: BatchKind | None) -> TrainingError:
    """The error for a batch that does not fit. fits: what was found to fit instead, None if nothing was."""
    if fits is None:
        advice = "not even a fraction of one row fits: take a smaller [model]"
    else:
        rows = "1 row" if fits.rows == 1 else f"{fits.rows} rows"
        advice = f"{rows} of {fits.length:,} tokens fit (tried): give the batch rows = {fits.rows}"
        advice += f" and length = {fits.length}" if fits.length < batch.kind.length else ""
        advice += f" and variants = {fits.num_variants}" if fits.num_variants < batch.kind.num_variants else ""
        advice += ", or take a smaller [model]"
    said = first_line(error)[:160]
    return TrainingError(
        f"step {where.step}: out of memory on {_described(batch.kind, where.stage)} ({said}); {advice}. "
        f"{checkpoint_line(where)} then"
    )


def building(path: Path) -> AbstractContextManager[None]:
    """Say in one line that the nets of a configuration do not fit, before any of them is there. path: of the file.

    Raises TrainingError.
    """
    return _without_memory(
        lambda line: (
            f"{path}: out of memory on building its nets ({line}); lower width, num_layers, mlp_width or vocab_size in "
            "[model]"
        )
    )


def placing(what: str, num_weights: int, device: torch.device, fix: str) -> AbstractContextManager[None]:
    """Say in one line what does not fit outside of a step. what: it takes memory; num_weights: that are learned.

    Raises TrainingError.
    """
    needed = num_weights * BYTES_PER_WEIGHT / 1e9
    return _without_memory(
        lambda line: (
            f"out of memory on {what} on {device} ({line}); {num_weights:,} weights with masters, "
            f"gradients and moments take about {needed:.1f} GB before any batch: {fix}"
        )
    )


@contextmanager
def _without_memory(say: Callable[[str], str]) -> Iterator[None]:
    """TrainingError where an allocator has nothing left. say: what, given the first line of what it said."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(say(first_line(error)[:160])) from error


def what_fits(
    loss: Callable[[Batch], tuple[Tensor, Tensor]],
    weights: Iterable[nn.Parameter],
    source: TextSource,
    batch: Batch,
    *,
    stage: Stage,
    seed: int,
    step: int,
    error: BaseException,
) -> BatchKind | None:
    """The largest half, quarter, ... of a batch that goes forward and backward in what memory there is, by trying."""
    traceback.clear_frames(error.__traceback__)  # they hold what did not fit
    weights = list(weights)
    kind = batch.kind
    while kind.rows > 1 or kind.length > 1:
        try:
            kind = _halved(kind)
            drawn = draw_batch(source, dataclasses.replace(stage, batches=(kind,), gate=None), seed=seed, step=step)
            loss(drawn.to(batch.ids_BT.device))[0].backward()  # type: ignore[no-untyped-call]
        except (MegaContextError, AssertionError, ValueError):  # no such row of that length
            return None
        except (RuntimeError, MemoryError) as again:
            if not is_out_of_memory(again):
                raise
            traceback.clear_frames(again.__traceback__)
        else:
            return kind
        finally:
            for weight in weights:
                weight.grad = None
    return None


def _halved(kind: BatchKind) -> BatchKind:
    """With half of the rows; of a single row half of its variants, then half of its length."""
    if kind.num_drawn > 1:
        return dataclasses.replace(kind, rows=kind.num_drawn // 2 * kind.num_variants)
    if kind.gists is not None and kind.num_variants > 1:
        variants = kind.num_variants // 2
        return dataclasses.replace(kind, rows=variants, gists=dataclasses.replace(kind.gists, variants=variants))
    return dataclasses.replace(kind, length=kind.length // 2)


def _described(kind: BatchKind, stage: Stage) -> str:
    rows = "1 row" if kind.rows == 1 else f"{kind.rows} rows"
    return f"batch {kind.name!r} of stage {stage.name!r} ({rows} of {kind.length:,} tokens)"


def _kinds(batch: Batch) -> str:
    return ", ".join(sorted(set(batch.row_kinds)))


def checkpoint_line(where: Where) -> str:
    """What there is to go on from, as the beginning of a sentence that says how."""
    if where.saved_step is None:
        return "There is no checkpoint yet; start again"
    return f"{where.out / 'checkpoint.pt'} (step {where.saved_step}) is as it was; --resume"
