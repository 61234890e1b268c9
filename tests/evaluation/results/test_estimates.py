"""Closures have denominators and controls; intervals draw histories, not questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacontext.evaluation.results.estimates import Outcomes
from megacontext.evaluation.runs.records import Record
from megacontext.evaluation.runs.trials import ItemResult


def records(method: str, values: list[list[float]], count: int = 10, metric: str = "nats") -> list[Record]:
    """One history for each list, one item for each value (a mean over ``count`` tokens)."""
    return [
        Record(
            task="t",
            key=f"h{number}",
            facets={},
            budget=512,
            method=method,
            items=tuple(ItemResult(facets={}, measures={metric: (value * count, count)}) for value in history),
        )
        for number, history in enumerate(values)
    ]


def table(full: float, own: float, floor: float = 3.0) -> Outcomes:
    spread = (-0.2, 0.0, 0.1, 0.3)
    found = []
    for method, middle in (("recency", floor), ("full", full), ("own", own)):
        found += records(method, [[middle + shift] for shift in spread])
    return Outcomes(found, "nats")


def test_closure_is_the_share_of_the_gap() -> None:
    closure = table(full=2.0, own=2.25).closure("own")
    assert closure is not None
    assert closure.value == pytest.approx(0.75)
    assert closure.low == pytest.approx(0.75)  # the spread is common to all three: differences are paired
    assert closure.high == pytest.approx(0.75)


@pytest.mark.parametrize(("full", "is_there"), [(2.901, False), (2.899, True), (3.5, False)])
def test_there_is_no_closure_without_a_gap(full: float, is_there: bool) -> None:
    assert (table(full=full, own=2.95).closure("own") is not None) == is_there


def test_closure_of_shares_counts_upwards() -> None:
    found = []
    for method, value in (("recency", 0.0), ("full", 1.0), ("own", 0.5)):
        found += records(method, [[value]] * 4, count=4, metric="score")
    outcomes = Outcomes(found, "score", is_share=True)
    closure, gap = outcomes.closure("own"), outcomes.gap()
    assert closure is not None
    assert gap is not None
    assert (closure.value, gap.value) == (0.5, 1.0)


def test_a_figure_is_a_ratio_of_sums_and_its_interval_holds_it() -> None:
    found = records("own", [[1.0], [3.0], [2.0]], count=10) + records("own", [[9.0]], count=1)
    found[3] = Record(task="t", key="h9", facets={}, budget=512, method="own", items=found[3].items)
    estimate = Outcomes(found, "nats").estimate("own")
    assert estimate is not None
    assert estimate.value == pytest.approx(69 / 31)
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.count, estimate.units) == (31, 4)


def test_histories_are_drawn_with_all_their_questions() -> None:
    """Ten questions on one history say no more than one: the interval does not shrink with them."""
    few = Outcomes(records("own", [[1.0], [2.0], [3.0], [4.0]]), "nats").estimate("own")
    many = Outcomes(records("own", [[1.0] * 10, [2.0] * 10, [3.0] * 10, [4.0] * 10]), "nats").estimate("own")
    assert few is not None
    assert many is not None
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_none_of_ten_is_not_surely_nothing() -> None:
    found = records("own", [[0.0]] * 10, count=1, metric="score")
    estimate = Outcomes(found, "score", is_share=True).estimate("own")
    assert estimate is not None
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(0.278, abs=0.01)  # Wilson, 0 of 10


def test_two_times_none_of_ten_need_not_be_the_same() -> None:
    found = [record for name in ("own", "recency") for record in records(name, [[0.0]] * 10, count=1, metric="score")]
    difference = Outcomes(found, "score", is_share=True).difference("own", "recency")
    assert difference is not None
    assert difference.value == 0
    assert (difference.low, difference.high) == (pytest.approx(-0.278, abs=0.01), pytest.approx(0.278, abs=0.01))


def test_only_what_both_were_tried_on_is_compared() -> None:
    found = records("own", [[1.0], [1.0], [1.0]]) + records("recency", [[2.0]])
    difference = Outcomes(found, "nats").difference("own", "recency")
    assert difference is not None
    assert (difference.value, difference.units) == (-1.0, 1)
    assert Outcomes(found, "nats").difference("own", "full") is None


@pytest.mark.parametrize("num_histories", [3, 4, 8, 20])
def test_equal_methods_are_seldom_told_apart(num_histories: int) -> None:
    random = np.random.default_rng(num_histories)
    wrong = 0
    for _ in range(400):
        ours, theirs = random.normal(2.0, 0.1, (2, num_histories))
        found = records("own", ours[:, None].tolist()) + records("recency", theirs[:, None].tolist())
        difference = Outcomes(found, "nats").difference("own", "recency")
        assert difference is not None
        wrong += difference.excludes_zero
    assert wrong / 400 < 0.08, "of bare percentiles 23, 21, 11 and 8 %"


def test_shares_stay_shares() -> None:
    found = records("own", [[1.0], [1.0], [1.0], [0.0]], count=1, metric="score")
    estimate = Outcomes(found, "score", is_share=True).estimate("own")
    assert estimate is not None
    assert 0 <= estimate.low < 0.75 < estimate.high == 1


def test_the_same_text_twice_is_one_history() -> None:
    values = [[1.0], [2.0], [3.0], [4.0]]
    found = [replace(record, history=record.key) for record in records("own", values)]
    again = [replace(record, key=f"again {record.key}") for record in found]
    once, twice = Outcomes(found, "nats").estimate("own"), Outcomes([*found, *again], "nats").estimate("own")
    assert once is not None
    assert twice is not None
    assert (twice.units, twice.count) == (4, 2 * once.count)
    assert (twice.low, twice.high) == (once.low, once.high)
    few = Outcomes([*found[:2], *again[:2]], "nats").estimate("own")
    assert few is not None
    assert few.units == 2, "so it is where there are too few to draw"


def test_a_draw_without_a_gap_leaves_a_closure_without_an_interval() -> None:
    found = []
    for method, values in (("recency", [3.0, 3.0, 3.0]), ("full", [2.0, 3.0, 3.0]), ("own", [2.5, 3.0, 3.0])):
        found += records(method, [[value] for value in values])
    closure = Outcomes(found, "nats").closure("own")
    assert closure is not None
    assert closure.value == pytest.approx(0.5)
    assert (closure.low, closure.high) == (float("-inf"), float("inf"))


def test_one_trial_says_nothing_of_chance() -> None:
    estimate = Outcomes(records("own", [[1.0]]), "nats").estimate("own")
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == (1.0, float("-inf"), float("inf"))
    assert not estimate.excludes_zero
