"""Where the figures of a run go beside its own log: TensorBoard, Weights & Biases, MLflow.

None of them is needed. TensorBoard is written whenever it is installed; the others when they are asked for. Servers,
accounts and offline modes are set as those tools say (``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI``); without a
server MLflow writes below the output folder. A resumed run goes on in the same run of the tracker.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from megacontext.errors import TrainingError, UnknownNameError, UsageError

_LOG = logging.getLogger(__name__)

__all__ = ["TRACKERS", "TensorBoard", "Tracker", "open_trackers", "refuse_missing"]

PROJECT = "megacontext"
RUN_IDS = "trackers.json"
LONGEST_PARAMETER = 250  # characters that MLflow takes for a value


class Tracker(Protocol):
    """Keeps figures by step."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Note the figures of a step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the output folder."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One scalar a figure."""
        with _interrupts_after():
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


@contextmanager
def _interrupts_after() -> Iterator[None]:
    """Ctrl-C waits until the block is through: within a queue's lock it can lose a wake-up, and closing the event file
    then waits two minutes for a writer that sleeps."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[0])


class WeightsAndBiases:
    """A run of the project ``megacontext``; its files lie in ``wandb/`` of the output folder."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        run_id = _run_id(out, "wandb") or _keep_run_id(out, "wandb", uuid.uuid4().hex[:16])
        try:
            self._run = wandb.init(
                project=PROJECT, name=out.name, id=run_id, resume="allow", dir=str(out), config=dict(config)
            )
        except wandb.Error as error:
            raise _refused("wandb", error, "log in with `wandb login`, or set WANDB_MODE=offline") from error

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One record."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Wait until everything is sent or written."""
        self._run.finish()


class MLflow:
    """A run of the experiment ``megacontext``, on the server of MLFLOW_TRACKING_URI or in ``mlflow.db``."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        self._mlflow, self._error = mlflow, importlib.import_module("mlflow.exceptions").MlflowException
        run_id = _run_id(out, "mlflow")
        try:
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').resolve()}")
            mlflow.set_experiment(PROJECT)
            run = mlflow.start_run(run_id=run_id, run_name=out.name)
            if run_id is None:
                _keep_run_id(out, "mlflow", run.info.run_id)
                mlflow.log_params({key: str(value)[:LONGEST_PARAMETER] for key, value in _flat(config).items()})
        except (self._error, OSError, ImportError) as error:
            raise _refused("mlflow", error, "set MLFLOW_TRACKING_URI to a server that answers, or unset it") from error

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One metric a figure."""
        try:
            self._mlflow.log_metrics(dict(figures), step=step)
        except (self._error, OSError) as error:  # a server that is away is no reason to stop training
            _LOG.warning("mlflow did not keep step %d: %s", step, error)

    def close(self) -> None:
        """Mark the run as finished."""
        self._mlflow.end_run()


TRACKERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any]], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
}
"""Name -> the package that it takes, and how it is opened."""


def refuse_missing(names: Sequence[str]) -> None:
    """Raise UnknownNameError or UsageError for a tracker that is not known, or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UnknownNameError.of("tracker", name, list(TRACKERS))
        package = TRACKERS[name][0]
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"tracker {name!r} needs the package {package}, which is not installed: `pip install {package}`"
            )


def open_trackers(names: Sequence[str], out: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """TensorBoard if it is installed, and those that are asked for.

    Raises UnknownNameError or UsageError as `refuse_missing` does, TrainingError if one cannot be reached.
    """
    refuse_missing(names)
    usual = ["tensorboard"] if importlib.util.find_spec("tensorboard") is not None else []
    return [TRACKERS[name][1](out, config) for name in dict.fromkeys([*usual, *names])]


def _run_id(out: Path, name: str) -> str | None:
    path = out / RUN_IDS
    found = json.loads(path.read_text()).get(name) if path.is_file() else None
    return found if isinstance(found, str) else None


def _keep_run_id(out: Path, name: str, run_id: str) -> str:
    path = out / RUN_IDS
    kept = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**kept, name: run_id}, indent=2) + "\n")
    return run_id


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def _refused(name: str, error: Exception, fix: str) -> TrainingError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TrainingError(f"tracker {name!r} cannot be opened: {line[:200]}; {fix}, or train without --track {name}")
