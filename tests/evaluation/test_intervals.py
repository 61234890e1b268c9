"""Intervals against published values and against plain formulas."""

from __future__ import annotations

import math

import pytest

from megacontext.errors import InvalidValueError
from megacontext.evaluation.intervals import Mean, Share, paired_difference, signed_interval


def test_wilson_interval_of_a_textbook_case() -> None:
    low, high = Share(successes=15, trials=20).interval
    assert (round(low, 4), round(high, 4)) == (0.5313, 0.8881)


@pytest.mark.parametrize(("successes", "trials"), [(0, 60), (60, 60), (1, 1), (7, 9)])
def test_wilson_interval_holds_the_share_and_stays_within_bounds(successes: int, trials: int) -> None:
    share = Share(successes=successes, trials=trials)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1
    assert high > low


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (3, 2), (-1, 2)])
def test_shares_of_nothing_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(InvalidValueError, match="is no share"):
        Share(successes=successes, trials=trials)


def test_mean_and_standard_error() -> None:
    mean = Mean.of([1.0, 2.0, 3.0, 6.0])
    assert mean.value == 3.0
    assert mean.error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert Mean.of([5.0]).error == math.inf
    assert not Mean.of([5.0]).differs_from_zero


def test_pairs_see_what_means_do_not() -> None:
    left = [1.0, 5.0, 9.0, 2.0]
    right = [value - 0.1 - 0.001 * index for index, value in enumerate(left)]
    assert paired_difference(left, right).differs_from_zero
    assert not paired_difference(left, list(reversed(left))).differs_from_zero


def test_pairs_need_the_same_trials() -> None:
    with pytest.raises(InvalidValueError, match="2 against 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_a_signed_interval_has_no_minus_before_zeros() -> None:
    mean = Mean(value=-0.00001, error=0.01, count=9)
    assert signed_interval(mean, unit=" nats") == "+0.000 nats [-0.023, +0.023]"
