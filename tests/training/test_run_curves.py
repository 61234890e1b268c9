"""Figures of runs by the tokens seen, out of logs that were resumed, compressed, or are still being written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacontext.errors import InvalidValueError
from megacontext.training.run_curves import read_run_curves
from megacontext.training.run_logs import copy_run_logs


def write_log(folder: Path, *lines: dict[str, Any], end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + end)
    return folder


def test_runs_that_went_on_count_their_tokens_together(tmp_path: Path) -> None:
    first = write_log(tmp_path / "1", {"step": 10, "tokens": 100, "nll": 4.0}, {"step": 20, "tokens": 200, "nll": 3.0})
    second = write_log(tmp_path / "2", {"step": 10, "tokens": 50, "nll": 2.0})
    curves = read_run_curves([first, second])
    assert curves.starts == (0, 200)
    tokens, values = curves.curve("nll")
    np.testing.assert_array_equal(tokens, [100, 200, 250])
    np.testing.assert_array_equal(values, [4.0, 3.0, 2.0])


def test_an_exported_model_holds_the_logs_of_all_its_runs(tmp_path: Path) -> None:
    long = [{"step": step, "tokens": step, "nll": 1.0, "filler": "x" * 1000} for step in range(1, 401)]
    runs = [write_log(tmp_path / "1", *long), write_log(tmp_path / "2", {"step": 1, "tokens": 7, "nll": 5.0})]
    model = tmp_path / "model"
    model.mkdir()
    copied = copy_run_logs(runs, model)
    assert [path.name for path in copied] == ["log.1.jsonl.gz", "log.jsonl"]
    assert read_run_curves([model]) == read_run_curves(runs)
    assert read_run_curves([model]).starts == (0, 400)


def test_what_a_resumed_run_does_again_counts_once(tmp_path: Path) -> None:
    steps = [(10, 4.0), (20, 3.0), (30, 9.0), (20, 2.5), (30, 2.0)]
    run = write_log(tmp_path, *({"step": step, "tokens": 10 * step, "nll": nll} for step, nll in steps))
    tokens, values = read_run_curves([run]).curve("nll")
    np.testing.assert_array_equal(tokens, [100, 200, 300])
    np.testing.assert_array_equal(values, [4.0, 2.5, 2.0])


def test_what_the_gate_says_belongs_to_the_last_step(tmp_path: Path) -> None:
    run = write_log(tmp_path, {"step": 10, "tokens": 80, "nll": 4.0}, {"step": 10, "gate/books": 0.5})
    assert read_run_curves([run]).lines == ({"step": 10, "tokens": 80, "nll": 4.0, "gate/books": 0.5},)


def test_the_gate_of_a_run_that_the_clock_ended_stands_between_two_lines_of_the_log(tmp_path: Path) -> None:
    run = write_log(tmp_path, {"step": 10, "tokens": 80, "nll": 4.0}, {"step": 14, "gate/books": 0.5})
    assert read_run_curves([run]).lines == ({"step": 10, "tokens": 80, "nll": 4.0, "gate/books": 0.5},)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    run = write_log(tmp_path, {"step": 10, "tokens": 80}, end='{"step": 20, "tok')
    assert [line["step"] for line in read_run_curves([run]).lines] == [10]


def test_curves_are_means_of_figures_and_of_lines(tmp_path: Path) -> None:
    lines = [{"a": 1.0, "b": 3.0}, {"other": 9.0}, {"a": 4.0}, {"b": 6.0}]
    run = write_log(tmp_path, *({"step": n, "tokens": n, **line} for n, line in enumerate(lines, start=1)))
    curves = read_run_curves([run])
    tokens, values = curves.curve("a", "b")
    np.testing.assert_array_equal(tokens, [1, 3, 4])
    np.testing.assert_array_equal(values, [2.0, 4.0, 6.0])
    np.testing.assert_array_equal(curves.curve("a", "b", over=2)[1], [2.0, 3.0, 5.0])
    assert curves.curve("absent")[1].shape == (0,)


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"step": 1}', '{"tokens": 1}', '{"step": "ten", "tokens": 1}'])
def test_a_log_of_something_else_is_refused(line: str, tmp_path: Path) -> None:
    run = write_log(tmp_path, {"step": 1, "tokens": 1}, {"step": 2, "tokens": 2}, end=f"{line}\n")
    with pytest.raises(InvalidValueError, match=r"log\.jsonl line 3 is no figures of a step"):
        read_run_curves([run])


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"has no log\.jsonl; give the --out of a run"):
        read_run_curves([tmp_path])
