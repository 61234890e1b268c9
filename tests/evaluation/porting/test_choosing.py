"""Defaults follow the stated rules, and say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacontext.evaluation.porting.checks import CheckResult
from megacontext.evaluation.porting.choosing import choose
from megacontext.evaluation.porting.footprint import Cost
from megacontext.evaluation.porting.measuring import Measurement, Plan, Shape
from megacontext.testing.fake_base import tiny_base

GIB = 1 << 30
NUM_TRIALS = 12
NOISE = np.random.default_rng(0).normal(0, 0.01, (40, NUM_TRIALS))
INFO = replace(tiny_base("llama").info, max_positions=32768)
COST = Cost(prefill=100_000.0, decode=50.0, weight_bytes=GIB, entry_bytes=1 << 17, device_bytes=17 * GIB, windows=())


def measurement(gains: dict[Shape, float]) -> Measurement:
    """Recency at 4 nats, and shapes that save so much, with a little chance in each trial."""
    trials = 4.0 + np.random.default_rng(1).normal(0, 0.5, NUM_TRIALS)
    return Measurement(
        recency=tuple(trials),
        full=(),
        shapes={shape: tuple(trials - gain + NOISE[n]) for n, (shape, gain) in enumerate(gains.items())},
    )


def shape(gister: str = "extractive", block: int = 32, width: int = 1, **more: object) -> Shape:
    return Shape(gister=gister, block_tokens=block, gist_width=width, **more)  # type: ignore[arg-type]


def chosen(gains: dict[Shape, float], cost: Cost = COST, checks: tuple[CheckResult, ...] = ()) -> object:
    return choose(INFO, measurement(gains), cost, checks)


def test_gists_are_chosen_only_if_they_help() -> None:
    nothing = chosen({shape("mean", 16): -0.1, shape(): -0.05, shape("mean"): -0.2})
    assert (nothing.defaults.gister, nothing.defaults.block_tokens, nothing.defaults.gist_width) == ("mean", 32, 1)
    assert "as for any base" in nothing.reasons["gister"]
    best = chosen({shape(): -0.05, shape("mean", 64, 2): 0.3, shape("mean", 16, 4): 0.1})
    assert (best.defaults.gister, best.defaults.block_tokens, best.defaults.gist_width) == ("mean", 64, 2)
    assert best.gain.interval[0] > 0.25


def test_of_what_cannot_be_told_apart_the_narrowest_is_chosen() -> None:
    tied = chosen({shape(width=4): 0.300, shape("mean", 64, 1): 0.2999, shape("mean", 32, 1): 0.2998, shape(): 0.1})
    assert (tied.defaults.gister, tied.defaults.block_tokens, tied.defaults.gist_width) == ("mean", 32, 1)


def test_positions_and_sinks_change_only_for_more_than_chance() -> None:
    same = chosen({shape(): 0.1, shape(positions="timeline"): 0.1, shape(sink_tokens=0): 0.1})
    assert (same.defaults.positions, same.defaults.sink_tokens) == ("window", 4)
    other = chosen({shape(): 0.1, shape(positions="timeline"): 0.3, shape(sink_tokens=0): 0.3})
    assert (other.defaults.positions, other.defaults.sink_tokens) == ("timeline", 0)
    worse = chosen({shape(): 0.1, shape(positions="timeline"): -0.3, shape(sink_tokens=0): -0.3})
    assert (worse.defaults.positions, worse.defaults.sink_tokens) == ("window", 4)
    whole = chosen({shape(): 0.1, shape(positions="global"): 0.9})
    assert whole.defaults.positions == "window"  # a memory grows beyond every global position


@pytest.mark.parametrize(
    ("changes", "entries", "why"),
    [
        ({}, 16384, "an eighth"),  # 2 GiB of 128 KiB each
        ({"device_bytes": 0}, 32768, "made for windows"),
        ({"prefill": 450.0}, 4096, "within 10 s"),
        ({"prefill": 3.0}, 1024, "within 10 s"),
        ({"entry_bytes": 1 << 25}, 1024, "an eighth"),
    ],
)
def test_the_window_fits_positions_memory_and_patience(changes: dict[str, float], entries: int, why: str) -> None:
    found = chosen({shape(): 0.1}, cost=replace(COST, **changes))
    assert found.defaults.budget_entries == entries
    assert why in found.reasons["budget_entries"]


def test_a_precision_that_differs_is_not_chosen() -> None:
    def compared(passed: bool) -> tuple[CheckResult, ...]:
        return (CheckResult(name="precision", passed=passed, error=0.2, limit=0.15, detail=""),)

    assert chosen({shape(): 0.1}, checks=compared(True)).defaults.dtype == "auto"
    assert chosen({shape(): 0.1}, checks=compared(False)).defaults.dtype == "float32"


def test_every_default_has_its_reason_in_one_sentence() -> None:
    found = chosen({shape(): 0.1, shape(positions="timeline"): 0.1})
    assert set(found.reasons) == {"dtype", "gister", "budget_entries", "positions", "sink_tokens"}
    for name, reason in found.reasons.items():
        assert getattr(found.defaults, name) is not None
        assert reason.endswith(".")
        assert "\n" not in reason


def test_a_slow_base_is_measured_less_and_a_small_one_fits() -> None:
    fast = Plan.of(INFO, tokens_per_second=1e6, is_quick=False)
    slow = Plan.of(INFO, tokens_per_second=30.0, is_quick=True)
    assert fast.num_trials > slow.num_trials >= 4
    assert fast.seconds <= 900
    assert len(slow.shapes) < len(fast.shapes)
    small = Plan.of(replace(INFO, max_positions=128), tokens_per_second=1e6, is_quick=True)
    assert small.history_tokens + small.target_tokens <= 128
    assert small.window_entries == 64


def test_a_gain_that_is_tiny_or_rests_on_few_trials_does_not_count() -> None:
    tiny = chosen({shape(): -0.1, shape("mean", 16): 0.005})
    assert "as for any base" in tiny.reasons["gister"]
    few = Measurement(recency=(4.0, 4.1), full=(), shapes={shape(): (3.98, 4.05), shape("mean", 16): (3.9, 3.98)})
    assert "as for any base" in choose(INFO, few, COST, ()).reasons["gister"]


def test_learned_gists_are_measured_in_shapes_that_they_were_taught() -> None:
    info = replace(INFO, gist_net="0" * 64, trained_shapes=((32, 1), (32, 4)))
    learned = [each for each in Plan.of(info, tokens_per_second=1e5, is_quick=False).shapes if each.gister == "gistnet"]
    assert [(each.block_tokens, each.gist_width) for each in learned] == [(32, 1), (32, 4)]
