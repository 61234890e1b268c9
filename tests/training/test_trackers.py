"""Trackers: the real packages where they are installed, and everywhere the calls that their documentation describes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from megacontext.errors import TrainingError, UnknownNameError, UsageError
from megacontext.training.trackers import TRACKERS, TensorBoard, open_trackers, refuse_missing

CONFIG = {"loop": {"seed": 1}, "stage": [{"name": "dense"}]}
Calls = list[tuple[Any, ...]]


def install(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Make an importable double of a package."""
    module.__spec__ = importlib.util.spec_from_loader(module.__name__, loader=None)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A recording double of https://docs.wandb.ai/ref/python: init, Run.log, Run.finish."""
    calls: Calls = []
    module: Any = ModuleType("wandb")
    module.Error = type("Error", (Exception,), {})

    def init(**given: Any) -> Any:
        calls.append(("init", given))
        if given["name"] == "refused":
            raise module.Error("api_key not configured (no-tty)\nmore")
        return SimpleNamespace(
            log=lambda figures, *, step: calls.append(("log", figures, step)), finish=lambda: calls.append(("finish",))
        )

    module.init = init
    install(monkeypatch, module)
    return calls


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A recording double of https://mlflow.org/docs/latest/api_reference/python_api: the fluent calls."""
    calls: Calls = []
    module: Any = ModuleType("mlflow")
    exceptions: Any = ModuleType("mlflow.exceptions")
    exceptions.MlflowException = type("MlflowException", (Exception,), {})

    def record(name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls.append((name, *given, named))
            if name == "log_metrics" and named["step"] == 13:
                raise exceptions.MlflowException("the server is away")
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        return call

    for name in ("set_tracking_uri", "set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
        setattr(module, name, record(name))
    install(monkeypatch, module)
    install(monkeypatch, exceptions)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return calls


def test_ctrl_c_waits_until_the_figures_of_a_step_are_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = TensorBoard(tmp_path, {})
    queued: list[str] = []

    def interrupted(name: str, value: float, step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        queued.append(name)

    monkeypatch.setattr(tracker._writer, "add_scalar", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tracker.log({"loss": 1.0, "rate": 2.0}, 1)
        assert queued == ["loss", "rate"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        tracker.close()


def test_wandb_gets_the_settings_and_every_figure_with_its_step(wandb: Calls, tmp_path: Path) -> None:
    *_, tracker = open_trackers(["wandb"], tmp_path, CONFIG)
    tracker.log({"nll": 2.5}, 10)
    tracker.close()
    (_, given), log, finish = wandb
    assert (given["project"], given["dir"], given["config"]) == ("megacontext", str(tmp_path), CONFIG)
    assert (log, finish) == (("log", {"nll": 2.5}, 10), ("finish",))


def test_a_resumed_run_is_the_same_run(wandb: Calls, mlflow: Calls, tmp_path: Path) -> None:
    open_trackers(["wandb", "mlflow"], tmp_path, CONFIG)
    open_trackers(["wandb", "mlflow"], tmp_path, CONFIG)
    first, second = (given for name, given in wandb if name == "init")
    assert first["id"] == second["id"]
    assert second["resume"] == "allow"
    assert [named["run_id"] for name, named in (call for call in mlflow if call[0] == "start_run")] == [None, "r1"]
    assert sum(call[0] == "log_params" for call in mlflow) == 1
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": first["id"], "mlflow": "r1"}


def test_mlflow_writes_below_the_output_folder_unless_a_server_is_named(
    mlflow: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, tracker = open_trackers(["mlflow"], tmp_path, CONFIG)
    tracker.log({"nll": 2.5, "text/plain_64": 3.0}, 10)
    tracker.close()
    assert mlflow[0] == ("set_tracking_uri", f"sqlite:///{tmp_path / 'mlflow.db'}", {})
    assert ("log_params", {"loop.seed": "1", "stage": "[{'name': 'dense'}]"}, {}) in mlflow
    assert mlflow[-2:] == [("log_metrics", {"nll": 2.5, "text/plain_64": 3.0}, {"step": 10}), ("end_run", {})]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    mlflow.clear()
    open_trackers(["mlflow"], tmp_path, CONFIG)
    assert mlflow[0][0] == "set_experiment"


def test_a_server_that_goes_away_does_not_stop_the_run(
    mlflow: Calls, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *_, tracker = open_trackers(["mlflow"], tmp_path, CONFIG)
    tracker.log({"nll": 2.5}, 13)
    tracker.log({"nll": 2.4}, 14)
    assert mlflow[-1] == ("log_metrics", {"nll": 2.4}, {"step": 14})
    assert "mlflow did not keep step 13: the server is away" in caplog.text


def test_a_tracker_that_cannot_be_opened_is_one_line(wandb: Calls, tmp_path: Path) -> None:
    out = tmp_path / "refused"
    out.mkdir()
    with pytest.raises(TrainingError) as caught:
        open_trackers(["wandb"], out, CONFIG)
    assert str(caught.value) == (
        "tracker 'wandb' cannot be opened: api_key not configured (no-tty); log in with `wandb login`, or set "
        "WANDB_MODE=offline, or train without --track wandb"
    )


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in TRACKERS else found(name))
    for name in TRACKERS:
        with pytest.raises(
            UsageError, match=f"tracker '{name}' needs the package {name}, which is not installed: `pip"
        ):
            refuse_missing([name])
    with pytest.raises(UnknownNameError, match="unknown tracker 'comet'; known: mlflow, tensorboard, wandb"):
        refuse_missing(["comet"])
    assert open_trackers([], tmp_path, CONFIG) == []  # nobody asked for TensorBoard, so that it may be missing
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    *_, tracker = open_trackers(["wandb"], tmp_path, CONFIG)
    tracker.log({"nll": 2.5}, 10)
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_keeps_metrics_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):
        *_, tracker = open_trackers(["mlflow"], tmp_path, CONFIG)
        tracker.log({"nll": 2.5, "text/plain_64": 3.0}, 10)
        tracker.close()
    import mlflow

    runs = mlflow.search_runs(experiment_names=["megacontext"], output_format="list")
    assert len(runs) == 1
    assert runs[0].data.metrics == {"nll": 2.5, "text/plain_64": 3.0}
    assert runs[0].data.params["loop.seed"] == "1"
