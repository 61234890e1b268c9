"""Scaling curves against ones that are known."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest

from megacontext.errors import InvalidValueError
from megacontext.training.scaling import (
    Curve,
    Point,
    PowerLaw,
    Product,
    fit_curve,
    fit_power,
    fit_product,
    left_out,
    num_apart,
)

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
    cells = left_out(runs, fit_curve)
    assert [some for some, _ in cells] == [[run] for run in runs]
    errors = [curve.at(some[0].weights, some[0].tokens) - some[0].nats for some, curve in cells]
    without = fit_curve([*runs[:3], *runs[4:]])
    assert cells[3][1].at(1e7, 1e8) == pytest.approx(without.at(1e7, 1e8))
    assert cells[3][1].at(1e7, 1e8) != pytest.approx(cells[4][1].at(1e7, 1e8), rel=1e-6)
    assert 0 < max(map(abs, errors)) < 0.25
    assert np.median(np.abs(errors)) < 0.03


def test_seeds_of_one_size_and_length_are_left_out_together() -> None:
    again = [replace(run, tokens=run.tokens * 1.05, nats=run.nats * 1.01) for run in points()[:2]]
    cells = left_out([*points(), *again], fit_curve)
    assert [len(some) for some, _ in cells] == [2, 2] + [1] * 10
    assert cells[0][0] == [points()[0], again[0]]


def test_no_curve_is_left_where_a_size_hangs_on_one_run() -> None:
    """Three sizes, one of them of a single run: without it two are left."""
    some = [point for point in points() if point.weights < 2e6]
    few = [*some, next(point for point in points() if point.weights == 2e6)]
    assert fit_curve(few).at(2e6, 5e5) > 0
    assert left_out(few, fit_curve) == []
    assert left_out(points()[:6] + points()[9:10], fit_curve) == []


def test_what_grows_is_a_product() -> None:
    true = Product(factor=0.002, weight_power=0.1, token_power=0.2)
    random = np.random.default_rng(1)
    runs = [Point(weights=w, tokens=d, nats=true.at(w, d) * np.exp(0.01 * random.normal())) for w, d in GRID]
    assert fit_product(runs).at(2e7, 1e9) == pytest.approx(true.at(2e7, 1e9), rel=0.1)
    exact = fit_product([replace(run, nats=true.at(run.weights, run.tokens)) for run in runs])
    assert asdict(exact) == pytest.approx(asdict(true))
    with pytest.raises(InvalidValueError, match="has no logarithm; leave such runs out"):
        fit_product([replace(runs[0], nats=-0.01), *runs[1:]])


def test_too_few_runs_fix_no_curve() -> None:
    with pytest.raises(InvalidValueError, match="5 runs of 2 sizes and 3 lengths do not fix a curve"):
        fit_curve(points()[:5])
    same = [Point(weights=1e6, tokens=1e6 * 2**number, nats=3.0) for number in range(1, 8)]
    with pytest.raises(InvalidValueError, match=r"7 runs of 1 sizes and 7 lengths .* of 3 sizes and 3 lengths"):
        fit_curve(same)
    near = [Point(weights=w, tokens=1.6e7 + 2000 * n, nats=3.0) for n in range(3) for w in (1e5, 3e5, 9e5)]
    with pytest.raises(InvalidValueError, match="9 runs of 3 sizes and 1 lengths"):
        fit_curve(near)
    with pytest.raises(InvalidValueError, match="no loss"):
        fit_curve([Point(weights=w, tokens=d, nats=0.0) for w, d in GRID])


def test_lengths_that_differ_by_batches_alone_count_once() -> None:
    assert num_apart([2.03e6, 2.048e6, 4e6, 3.99e6, 1.57e7, 1.6e7]) == 3
    assert num_apart([]) == 0


def test_parameters_at_their_bounds_are_named() -> None:
    assert fit_curve(points()).at_bounds() == []
    level = [Point(weights=w, tokens=d, nats=30.0 / w**0.1 + 30.0 / d**0.1) for w, d in GRID]
    assert fit_curve(level).at_bounds() == ["floor"]


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
