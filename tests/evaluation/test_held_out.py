"""Held-out names follow one rule, in evaluation and in training."""

from __future__ import annotations

from megacontext.evaluation.held_out import is_held_out
from megacontext.evaluation.hidden_facts import FIRST_NAMES, LAST_NAMES
from megacontext.training.names import is_test


def test_the_rule_is_the_one_of_training() -> None:
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES] + [str(n) for n in range(10000, 12000)]
    assert [is_held_out(name) for name in names] == [is_test(name) for name in names]


def test_about_a_tenth_is_held_out() -> None:
    held_out = sum(is_held_out(str(number)) for number in range(10000, 20000))
    assert 900 < held_out < 1100
