"""Closure and its interval, against values worked out by hand and draws made anew."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.training import closure
from megacontext.training.closure import closure_report

RECENCY = {(0, 5): 2.0, (0, 9): 3.0, (1, 5): 4.0, (2, 1): 2.5}
FULL = {(0, 5): 1.0, (0, 9): 1.0, (1, 5): 2.0, (2, 1): 0.5}


@pytest.fixture
def of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows are enough to draw from: what comes of them can be worked out."""
    monkeypatch.setattr(closure, "FEWEST_ROWS", 3)


def test_few_rows_have_no_interval() -> None:
    assert closure_report(RECENCY, FULL, FULL) == {"closure": 1.0, "interval": None}


@pytest.mark.usefixtures("of_few")
def test_a_share_of_the_gap() -> None:
    found = {(0, 5): 1.5, (0, 9): 2.0, (1, 5): 2.0, (2, 1): 1.0}
    report = closure_report(RECENCY, FULL, found)
    assert report["closure"] == round((0.5 + 1 + 2 + 1.5) / (1 + 2 + 2 + 2), 4)
    low, high = report["interval"]  # type: ignore[misc]
    assert pytest.approx(low, abs=0.01) == 0.5  # three times the first row: 1.5 of 3
    assert high == 1.0  # three times the second


@pytest.mark.usefixtures("of_few")
def test_limits_are_one_and_nothing() -> None:
    assert closure_report(RECENCY, FULL, FULL) == {"closure": 1.0, "interval": [1.0, 1.0]}
    assert closure_report(RECENCY, FULL, RECENCY) == {"closure": 0.0, "interval": [0.0, 0.0]}


def test_the_interval_draws_rows_and_narrows_with_them() -> None:
    random = np.random.default_rng(3)

    def widths(num_rows: int, num_questions: int) -> float:
        keys = [(row, place) for row in range(num_rows) for place in range(num_questions)]
        of_row = random.normal(0.5, 0.2, num_rows)  # all that a row's questions share
        report = closure_report(
            dict.fromkeys(keys, 2.0), dict.fromkeys(keys, 1.0), {key: 2 - of_row[key[0]] for key in keys}
        )
        low, high = report["interval"]  # type: ignore[misc]
        return high - low

    assert widths(100, 1) < widths(10, 1) / 2
    assert widths(10, 20) > widths(100, 1)  # twice as many questions, but of ten rows


@pytest.mark.usefixtures("of_few")
def test_a_small_gap_has_no_share() -> None:
    near = {key: nats - 0.05 for key, nats in RECENCY.items()}
    assert closure_report(RECENCY, near, FULL) == {"closure": None, "interval": None}
    only_one = RECENCY | {(1, 5): 2.0}  # a draw of three times the first and third rows has a gap, of the second none
    report = closure_report(only_one, FULL, FULL)
    assert report["closure"] == 1.0
    assert report["interval"] is None


def test_no_questions_have_none() -> None:
    assert closure_report({}, {}, {}) == {"closure": None, "interval": None}


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="the same questions"):
        closure_report(RECENCY, FULL, {(0, 5): 1.0})
