"""Scaling curves against ones that are known."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest

from megacontext.errors import InvalidValueError
from megacontext.training.scaling import Curve, Point, PowerLaw, fit_curve, fit_power, left_out_curves

TRUE = Curve(floor=1.7, weight_factor=400.0, weight_power=0.45, token_factor=2000.0, token_power=0.5)
GRID = [*itertools.product((2e5, 6e5, 2e6, 6e6), (5e5, 2e6, 8e6))]


def points(noise: float = 0.0) -> list[Point]:
    random = np.random.default_rng(0)
    return [
        Point(weights=weights, tokens=tokens, nats=TRUE.at(weights, tokens) * np.exp(noise * random.normal()))
        for weights, tokens in GRID
    ]


def test_a_known_curve_is_found_and_foretells_larger_runs() -> None:
    curve = fit_curve(points())
    for weights, tokens in [*GRID, (2.5e7, 1e8), (1e8, 1e9)]:
        assert curve.at(weights, tokens) == pytest.approx(TRUE.at(weights, tokens), rel=0.01)


def test_no_place_nearby_fits_better() -> None:
    """The fit is at its optimum: moving any parameter by a thousandth makes the misfit larger."""
    runs = points(noise=0.02)

    def misfit(curve: Curve) -> float:
        gaps = np.abs([np.log(curve.at(run.weights, run.tokens) / run.nats) for run in runs])
        return float(np.where(gaps < 1e-3, gaps**2 / 2, 1e-3 * (gaps - 5e-4)).sum())

    curve = fit_curve(runs)
    for name, value in asdict(curve).items():
        for factor in (0.999, 1.001):
            assert misfit(replace(curve, **{name: value * factor})) > misfit(curve), name


def test_what_is_left_out_is_foretold_as_well_as_the_noise_lets() -> None:
    runs = points(noise=0.003)
    curves = left_out_curves(runs)
    errors = [curve.at(run.weights, run.tokens) - run.nats for curve, run in zip(curves, runs, strict=True)]
    without = fit_curve([*runs[:3], *runs[4:]])
    assert curves[3].at(1e7, 1e8) == pytest.approx(without.at(1e7, 1e8))
    assert curves[3].at(1e7, 1e8) != pytest.approx(curves[4].at(1e7, 1e8), rel=1e-6)
    assert left_out_curves(runs[:6]) == [], "five runs fix none"
    assert 0 < max(map(abs, errors)) < 0.25
    assert np.median(np.abs(errors)) < 0.03


def test_too_few_runs_fix_no_curve() -> None:
    with pytest.raises(InvalidValueError, match="5 runs do not fix a curve"):
        fit_curve(points()[:5])
    same = [Point(weights=1e6, tokens=1e6 * number, nats=3.0) for number in range(1, 8)]
    with pytest.raises(InvalidValueError, match="two or more numbers of weights"):
        fit_curve(same)
    with pytest.raises(InvalidValueError, match="no loss"):
        fit_curve([Point(weights=w, tokens=d, nats=0.0) for w, d in GRID])


def test_the_law_of_context_is_found() -> None:
    true = PowerLaw(floor=3.2, factor=2.5, power=0.4)
    random = np.random.default_rng(0)
    contexts = [32 * 2**number for number in range(8)]
    exact = fit_power({context: true.at(context) for context in contexts})
    noisy = fit_power({context: true.at(context) + 0.003 * random.normal() for context in contexts})
    for context in (*contexts, 8 * contexts[-1]):
        assert exact.at(context) == pytest.approx(true.at(context), abs=0.002)
        assert noisy.at(context) == pytest.approx(true.at(context), abs=0.02)
    with pytest.raises(InvalidValueError, match="3 lengths do not fix a law"):
        fit_power({1: 3.0, 2: 2.5, 4: 2.2})
