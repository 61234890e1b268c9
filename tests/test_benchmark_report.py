"""The page of benchmark results says what the committed JSON says (benchmarks/report.py)."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("report")
    finally:
        sys.path.remove(str(FOLDER))


def test_the_page_is_that_of_the_committed_results(report):
    page = report.page(report.read_results(report.RESULTS))
    assert (report.DOCS / "benchmark-results.md").read_text(encoding="utf-8") == page, "run benchmarks/report.py"


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
