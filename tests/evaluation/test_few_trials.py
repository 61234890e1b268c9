"""What may be chance is not told as more, however few trials there are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from megacontext.errors import InvalidValueError
from megacontext.evaluation import figures
from megacontext.evaluation.intervals import Mean, paired_difference, signed_interval, student_t, wins_may_be_chance
from megacontext.evaluation.porting import choosing
from megacontext.evaluation.scores import Comparison, MethodScore, verdicts

# Two-sided 95 % quantiles as they are printed (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
PRINTED = """1 12.706, 2 4.303, 3 3.182, 4 2.776, 5 2.571, 6 2.447, 7 2.365, 8 2.306, 9 2.262, 10 2.228, 11 2.201,
15 2.131, 23 2.069, 30 2.042, 60 2.000, 100 1.984"""


def test_quantiles_are_those_of_the_tables() -> None:
    for pair in PRINTED.split(","):
        freedom, quantile = pair.split()
        assert f"{student_t(int(freedom)):.3f}" == quantile


def test_quantiles_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 200), 10_000):
        assert student_t(freedom) == pytest.approx(float(stats.t.ppf(0.975, freedom)), abs=2e-4)
    assert student_t(0) == math.inf


@pytest.mark.parametrize("num_trials", [2, 4, 12])
def test_one_in_twenty_runs_is_a_false_alarm(num_trials: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(4000, num_trials))
    alarms = np.mean([Mean.of(values).differs_from_zero for values in drawn])
    assert alarms == pytest.approx(0.05, abs=0.012)  # 1.96 standard errors: 0.30, 0.14, 0.08


def test_one_trial_says_nothing() -> None:
    assert Mean.of([5.0]).interval == (-math.inf, math.inf)
    assert not Mean.of([5.0]).differs_from_zero
    assert signed_interval(Mean.of([5.0])) == "+5.000 [-inf, +inf]"


def test_differences_that_are_all_alike_must_be_six() -> None:
    for num_trials in range(1, 10):
        left = [2.0 + 0.3 * trial for trial in range(num_trials)]
        right = [value - 0.1 for value in left]  # alike up to rounding
        assert paired_difference(left, right).differs_from_zero == (num_trials >= 6)
        assert not paired_difference(left, left).differs_from_zero


@pytest.mark.parametrize(
    ("wins", "losses", "may_be_chance"),
    [
        *[(wins, 0, wins < 6) for wins in range(9)],
        (7, 1, True),  # 18 of 256
        (8, 1, False),  # 20 of 512
        (20, 9, True),
        (21, 8, False),
        (1200, 1000, False),
    ],
)
def test_wins_are_counted_where_not_both_were_right(wins: int, losses: int, may_be_chance: bool) -> None:
    both = [True] * 5 + [False] * 3
    left = [True] * wins + [False] * losses + both
    right = [False] * wins + [True] * losses + both
    assert wins_may_be_chance(left, right) is may_be_chance
    assert wins_may_be_chance(right, left) is may_be_chance


def test_wins_need_the_same_trials() -> None:
    with pytest.raises(InvalidValueError, match="2 against 1 trials"):
        wins_may_be_chance([True, False], [True])


def compared(num_questions: int, nats: tuple[float, ...]) -> Comparison:
    """A method that is always right and one that never is; the first predicts text better by so much."""
    good = MethodScore(name="rag", label="RAG", correct=[True] * num_questions, nats=[2.0 - less for less in nats])
    poor = MethodScore(name="recency", label="RECENCY", correct=[False] * num_questions, nats=[2.0] * len(nats))
    return Comparison(title="t", num_tokens=1_000, budget_entries=128, scores=[good, poor])


def test_a_verdict_of_few_trials_names_no_winner() -> None:
    few = compared(5, (0.1, 0.2, 0.3))  # 1.96 standard errors, and none at all, say more than chance
    for sentence in verdicts(few):
        assert "RAG and RECENCY cannot be told apart" in sentence
    many = compared(6, (0.1, 0.2, 0.3, 0.2))
    for sentence in verdicts(many):
        assert sentence.startswith("RAG ")
        assert sentence.endswith("its lead is more than chance (95 %).")


def test_a_port_prints_the_interval_that_it_decides_by() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        gain = Mean.of(rng.normal(0.05, 0.04, size=4))
        low = float(signed_interval(gain).split("[")[1].split(",")[0])
        if abs(low) > 0.001 and gain.value >= choosing.LEAST_GAIN:
            assert choosing._counts(gain) == (low > 0)
    worse = Mean(value=-0.05, error=0.02, count=4)
    assert choosing._not_better(worse) == "is not better by more than chance (-0.050 nats [-0.114, +0.014])"
    assert choosing._not_better(replace(worse, count=12)).startswith("is worse (")


def test_whiskers_are_as_wide_as_the_interval() -> None:
    matplotlib = pytest.importorskip("matplotlib.figure")
    comparison = compared(3, (0.1, 0.2, 0.4))
    axes = matplotlib.Figure().add_subplot()
    figures._continuations(axes, comparison)
    drawn = [line.get_xdata() for line in axes.lines if len(set(line.get_ydata())) == 1]
    low, high = paired_difference(comparison.scores[1].nats, comparison.scores[0].nats).interval
    assert [list(ends) for ends in drawn] == [[0.0, 0.0], [low, high]]
    assert (low, high) == pytest.approx((0.2333 - 4.3027 * 0.08819, 0.2333 + 4.3027 * 0.08819), abs=1e-3)
    alone = matplotlib.Figure().add_subplot()
    figures._continuations(alone, compared(1, (0.1,)))
    assert not [line for line in alone.lines if len(set(line.get_ydata())) == 1]
