"""The page of benchmark results says what the committed JSON says (benchmarks/report.py)."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from megacontext.bases.registry import BaseHandle

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name):
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def report():
    return script("report")


def test_the_page_is_that_of_the_committed_results(report):
    page = report.page(report.read_results(report.RESULTS))
    assert (report.DOCS / "benchmark-results.md").read_text(encoding="utf-8") == page, "run benchmarks/report.py"


def test_the_page_of_evaluation_is_that_of_the_committed_runs():
    evaluation = script("evaluation_page")
    runs = evaluation.read_runs()
    page = (evaluation.DOCS / "evaluation-results.md").read_text(encoding="utf-8")
    assert page == evaluation.page(runs), "run benchmarks/evaluation_page.py"
    assert runs
    for name, run in runs.items():
        assert run["date"] in evaluation.report_of(name).read_text(encoding="utf-8")


def test_a_task_separates_nothing_where_even_perfect_focus_scores_0():
    evaluation = script("evaluation_page")

    def task(oracle, recency=0.0):
        parts = {
            name: {"all": {"estimate": {"value": value}}} for name, value in (("oracle", oracle), ("rec", recency))
        }
        nats = {"lower_is_better": True, "methods": {"oracle": {"all": {"estimate": {"value": 2.0}}}}}
        return {"tables": [{"lower_is_better": False, "methods": parts}, nats]}

    assert evaluation.separates_nothing(task(0.0))
    assert not evaluation.separates_nothing(task(0.1))
    assert not evaluation.separates_nothing(task(0.0, recency=0.1))
    assert not evaluation.separates_nothing({"tables": task(0.0)["tables"][1:]})  # a loss says nothing of that
    runs = evaluation.read_runs()
    silent = {
        name for run in runs.values() for name, task in run["tasks"].items() if evaluation.separates_nothing(task)
    }
    head = evaluation.page(runs).partition("\n## ")[0]
    assert silent
    assert all(f"`{name}`" in head for name in silent)


def test_figures_of_an_earlier_model_are_called_that():
    evaluation = script("evaluation_page")
    name, run = next(iter(evaluation.read_runs().items()))
    for made_by, is_said in ((BaseHandle("reference").info.gist_net, False), ("0" * 64, True)):
        told = {**run, "settings": {**run["settings"], "gist_net": made_by}}
        assert (f"**An earlier model**: `{name}` measured" in evaluation.page({name: told})) is is_said


def test_a_task_is_level_where_perfect_focus_is_not_told_from_recency():
    evaluation = script("evaluation_page")

    def task(*oracles):
        recency = {"all": {"estimate": {"value": 0.3, "low": 0.2, "high": 0.5}}}
        tables = [
            {
                "lower_is_better": False,
                "methods": {"recency": recency, "oracle": {"all": {"estimate": {"value": value}}}},
            }
            for value in oracles
        ]
        return {"tables": [*tables, {"lower_is_better": True, "methods": {}}]}

    assert evaluation.is_level(task(0.4, 0.5))
    assert not evaluation.is_level(task(0.4, 0.6))
    assert not evaluation.is_level(task(0.1))
    assert not evaluation.is_level(task())


def test_every_part_of_a_task_stands_on_the_page():
    evaluation = script("evaluation_page")
    runs = evaluation.read_runs()
    for run in runs.values():
        for name, task in run["tasks"].items():
            told = evaluation._by_part(name, task)
            for table in task["tables"]:
                parts = {part for one in table["methods"].values() for part in one} - {"all"}
                any_right = any(part["estimate"]["value"] for one in table["methods"].values() for part in one.values())
                if len(parts) > 1 and table["metric"] != "answer nats" and any_right:
                    assert all(f"| {part} |" in told for part in parts), (name, parts)
    page = evaluation.page(runs)
    assert page.count("<details>") == page.count("</details>") > 5


@pytest.mark.parametrize(
    ("value", "target", "reached", "times"),
    [
        (2.0, "<= 4 x", True, 2.0),
        (8.0, "<= 4 x", False, 0.5),
        (60.0, ">= 20 x", True, 3.0),
        (5.0, ">= 20 x", False, 0.25),
        (-0.001, "<= 0.01 nats", True, math.inf),
        (0, "<= 0 modules", True, 1.0),
        (3, "<= 0 modules", False, 0.01),
    ],
)
def test_a_promise_says_how_often_it_is_kept(report, value, target, reached, times):
    promise = report.Promise.of("bench", {"what": "it", "value": value, "target": target, "reached": reached})
    assert promise.times_better == pytest.approx(times)
    assert promise.target == target


@pytest.mark.parametrize(
    ("found", "best", "value", "reached"), [(19, 20, 0.95, True), (17, 18, 0.944, False), (0, 0, 0.0, False)]
)
def test_the_learned_lens_is_held_against_perfect_focus(report, found, best, value, reached):
    outcomes = [[100.0] * right + [0.0] * (20 - right) for right in (found, best)]
    row = script("hidden_facts").share_row(*outcomes)
    assert row["value"] == pytest.approx(value, abs=1e-3)
    assert (row["target"], row["reached"]) == (">= 0.95 x", reached)


def test_a_missed_target_is_called_that_and_is_drawn(report, tmp_path):
    row = {"what": "it", "value": 12_345.0, "unit": "tokens/s", "target": ">= 100000 tokens/s", "reached": False}
    content = {
        "benchmark": "speed",
        "date": "2026-01-02T03:04:05",
        "commit": "abc",
        "machine": {"num_cores": 2, "processor": "CPU"},
        "rows": [row],
    }
    (tmp_path / "speed.json").write_text(json.dumps(content))
    (tmp_path / "summary.json").write_text(json.dumps({**content, "benchmark": "summary"}))
    results = report.read_results(tmp_path)
    assert list(results) == ["speed"]
    page = report.page(results)
    assert "0 of 1 targets are reached" in page
    assert "| it | 12,345 tokens/s | >= 100,000 tokens/s | **missed** |" in page
    report.draw(report.promises_of(results), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_over_a_range_are_drawn_of_what_the_rows_say(report, tmp_path):
    pictures = script("cost_pictures")
    rows = [
        {"what": "generate, per token: 1 M of history / 10 k", "short_ms": 5.0, "long_ms": 6.0},  # its earlier name
        {"what": "decode step between refocuses: 10 M of history / 10 k", "short_ms": 5.0, "long_ms": 7.0},
        {"what": "generate, refocuses included: 1 M of history / 10 k", "short_ms": 8.0, "long_ms": 9.0},
        {"what": "refocus on a question: 1 M of history / 10 k", "short_ms": 50.0, "long_ms": 90.0},
        {"what": "refocus on a question: 100 M of history / 10 k", "short_ms": 50.0, "long_ms": 7.0},
        {"what": "session start: 1 M of history / 10 k", "short_ms": 5.0, "long_ms": 5.0},
    ]
    lines = pictures.history_lines(rows)
    assert lines == {
        "decode step between refocuses": [(1e4, 5.0), (1e6, 6.0), (1e7, 7.0)],
        "refocus on a question": [(1e4, 50.0), (1e6, 90.0), (1e8, 7.0)],
    }
    drifted = [
        {"what": f"core, {arm}, {number} refocuses: nats more than exact", "value": number / 1e5, "standard_error": 0.1}
        for arm in ("as by default", "32 probes")
        for number in (64, 1)
    ]
    assert pictures.drift_lines(drifted) == {"core": [(1.0, 1e-5, 0.1), (64.0, 64e-5, 0.1)]}
    for name, found in (("history_cost", rows), ("patch_drift", drifted)):
        picture, _, draw = report.PICTURES[name]
        draw(found, tmp_path / picture)
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_committed_results_have_the_rows_that_the_pictures_show(report):
    pictures, results = script("cost_pictures"), report.read_results(report.RESULTS)
    lines = pictures.history_lines(results["history_cost"]["rows"])
    assert {kind: len(points) for kind, points in lines.items()} == {
        "decode step between refocuses": 4,
        "refocus on a question": 4,
    }
    assert all(len(points) == 4 for points in pictures.drift_lines(results["patch_drift"]["rows"]).values())


def test_rows_of_a_base_that_is_not_measured_again_stay_with_their_date_and_commit(report, tmp_path):
    record = script("record")
    rows = {base: record.row(f"{base}: it", 1.0, "x", at_most=2.0, base=base) for base in ("here", "elsewhere")}
    path = record.record("speed", [*rows.values(), record.row("no base", 1.0, "x")], tmp_path)
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "date": "2026-01-02T03:04:05", "commit": "abc"}))
    for _ in range(2):  # a row that was kept once is kept with its own date
        record.record("speed", [rows["here"]], tmp_path)
    content = json.loads(path.read_text())
    assert [row["what"] for row in content["rows"]] == ["here: it", "elsewhere: it"]
    kept = content["rows"][1]
    assert (kept["date"], kept["commit"]) == ("2026-01-02T03:04:05", "abc")
    assert "| elsewhere: it (2026-01-02, `abc`) | 1 x |" in report.page(report.read_results(tmp_path))


def test_a_benchmark_that_writes_nothing_is_missed_and_its_last_result_stays(tmp_path, monkeypatch):
    run_all = script("run_all")
    (tmp_path / "speed.json").write_text('{"rows": [{"what": "it", "value": 1, "target": "<= 2 x", "reached": true}]}')
    for code, found in ((0, 1), (1, 1), (run_all.SKIPPED, 0)):
        monkeypatch.setattr(run_all, "run_script", lambda name, arguments, code=code: code)
        rows = run_all.run("speed", tmp_path)
        assert len(rows) == found
        assert not any(row["reached"] for row in rows)
    assert (tmp_path / "speed.json").exists()
