"""How a loss falls with weights, tokens and context: curves through small runs, and what they say of larger ones.

The curve is that of Hoffmann et al. 2022 ("Training compute-optimal large language models", approach 3):
L(N, D) = E + A / N^alpha + B / D^beta, N weights, D tokens, fitted by a Huber loss on log L from many starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError

__all__ = [
    "Curve",
    "Point",
    "PowerLaw",
    "Product",
    "fit_curve",
    "fit_power",
    "fit_product",
    "fixes_curve",
    "left_out",
    "num_apart",
    "refuse_few",
]

HUBER = 1e-3  # of log nats, as in the paper
BOUNDS = [(-6.0, 2.5), (-5.0, 25.0), (0.01, 2.0), (-5.0, 25.0), (0.01, 2.0)]
FLOORS = (-2.0, 0.0, 0.7)  # log nats; what a fit starts from, with factors and powers of weights and tokens
POWERS = ((2.0, 0.2, 4.0, 0.2), (5.0, 0.5, 8.0, 0.6), (2.0, 0.2, 12.0, 0.9), (12.0, 1.0, 4.0, 0.3))
NAMES = ("floor", "weight_factor", "weight_power", "token_factor", "token_power")
FEWEST = 6  # points: one more than the curve has parameters
FEWEST_APART = 3  # sizes, and lengths: two cannot tell a floor from a power
APART = 1.2  # runs of one length differ by what their batches hold
FEWEST_CONTEXTS = 4  # likewise


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run: weights N, tokens D, and a figure of it in nats, > 0 where a curve is to go through it."""

    weights: float
    tokens: float
    nats: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """L(N, D) = floor + weight_factor / N^weight_power + token_factor / D^token_power."""

    floor: float
    weight_factor: float
    weight_power: float
    token_factor: float
    token_power: float

    def at(self, weights: float, tokens: float) -> float:
        """Nats that a run of this size is expected to end with."""
        by_weights = self.weight_factor / float(weights) ** self.weight_power
        return float(self.floor + by_weights + self.token_factor / float(tokens) ** self.token_power)

    def at_bounds(self) -> list[str]:
        """Parameters that the points do not fix: the fit ended where it may go no further."""
        log = np.log
        fitted = (log(self.floor), log(self.weight_factor), self.weight_power, log(self.token_factor), self.token_power)
        return [
            name
            for name, value, (least, most) in zip(NAMES, fitted, BOUNDS, strict=True)
            if min(value - least, most - value) < 1e-6
        ]


@dataclass(frozen=True, kw_only=True)
class Product:
    """G(N, D) = factor * N^weight_power * D^token_power: what grows with weights and tokens."""

    factor: float
    weight_power: float
    token_power: float

    def at(self, weights: float, tokens: float) -> float:
        """Nats at this size."""
        return float(self.factor * float(weights) ** self.weight_power * float(tokens) ** self.token_power)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """L(T) = floor + factor / T^power, T tokens of context, or seen in training."""

    floor: float
    factor: float
    power: float

    def at(self, tokens: float) -> float:
        """Nats that so many tokens are expected to leave."""
        return float(self.floor + self.factor / float(tokens) ** self.power)


def fit_power(nats_by_tokens: Mapping[int, float] | Mapping[float, float]) -> PowerLaw:
    """The law through nats by numbers of tokens (in any unit in which the factor is below 20,000), by least squares;
    InvalidValueError for fewer than four."""
    from scipy.optimize import least_squares

    if len(nats_by_tokens) < FEWEST_CONTEXTS:
        raise InvalidValueError(
            f"{len(nats_by_tokens)} lengths do not fix a law of three parameters; measure at least {FEWEST_CONTEXTS}"
        )
    log_t, nats = np.log(list(nats_by_tokens)), np.array(list(nats_by_tokens.values()))

    def misfit(params_3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        floor, log_factor, power = params_3
        gap: npt.NDArray[np.float64] = floor + np.exp(log_factor - power * log_t) - nats
        return gap

    starts = itertools.product((0.5, 0.9), (0.1, 0.3, 0.6))  # of the floor, as a share of the least; of the power
    low, high = (0.0, -10.0, 0.01), (float(nats.min()), 10.0, 3.0)
    tried = [
        least_squares(misfit, (share * nats.min(), 1.0, power), bounds=(low, high), x_scale=(0.1, 0.5, 0.1))
        for share, power in starts
    ]
    floor, log_factor, power = min(tried, key=lambda found: found.cost).x
    return PowerLaw(floor=float(floor), factor=float(np.exp(log_factor)), power=float(power))


def num_apart(values: Iterable[float]) -> int:
    """How many of some numbers, of weights or tokens, are told apart: those within a fifth of another count once."""
    return len(_firsts(values))


def _firsts(values: Iterable[float]) -> list[float]:
    firsts: list[float] = []
    for value in sorted(values):
        if not firsts or value > APART * firsts[-1]:
            firsts.append(value)
    return firsts


def refuse_few(num_runs: int, *, num_sizes: int, num_lengths: int) -> None:
    """InvalidValueError for runs that fix no curve: too few, or of too few numbers of weights or tokens."""
    if num_runs < FEWEST or min(num_sizes, num_lengths) < FEWEST_APART:
        raise InvalidValueError(
            f"{num_runs} runs of {num_sizes} sizes and {num_lengths} lengths do not fix a curve of five parameters; "
            f"measure at least {FEWEST}, of {FEWEST_APART} sizes and {FEWEST_APART} lengths"
        )


def fixes_curve(points: Sequence[Point]) -> bool:
    """Whether points are enough for a curve."""
    num_sizes, num_lengths = num_apart(p.weights for p in points), num_apart(p.tokens for p in points)
    return len(points) >= FEWEST and min(num_sizes, num_lengths) >= FEWEST_APART


def fit_curve(points: Sequence[Point]) -> Curve:
    """The curve through at least six points of three sizes and three lengths; InvalidValueError for fewer."""
    from scipy.optimize import minimize

    num_sizes, num_lengths = num_apart(p.weights for p in points), num_apart(p.tokens for p in points)
    refuse_few(len(points), num_sizes=num_sizes, num_lengths=num_lengths)
    if min(point.nats for point in points) <= 0:
        raise InvalidValueError("a loss of 0 nats or less is no loss; give nats per token")
    log_n, log_d, log_l = (np.log([getattr(point, name) for point in points]) for name in ("weights", "tokens", "nats"))

    def misfit(params_5: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """In units of HUBER, or the optimiser takes any place for flat; and its gradient."""
        log_floor, log_a, alpha, log_b, beta = params_5
        parts = np.stack([np.full_like(log_n, log_floor), log_a - alpha * log_n, log_b - beta * log_d])
        log_sum = np.logaddexp.reduce(parts)
        gap, shares = log_sum - log_l, np.exp(parts - log_sum)
        pull = np.clip(gap, -HUBER, HUBER) / HUBER
        floor, by_weights, by_tokens = pull * shares
        slopes = [floor.sum(), by_weights.sum(), -log_n @ by_weights, by_tokens.sum(), -log_d @ by_tokens]
        size = np.abs(gap)
        return float(np.where(size < HUBER, size**2 / (2 * HUBER), size - HUBER / 2).sum()), np.array(slopes)

    exact = {"ftol": 1e-12, "gtol": 1e-9, "maxiter": 2000}
    starts = [(log_floor, *powers) for log_floor, powers in itertools.product(FLOORS, POWERS)]
    tried = [
        minimize(misfit, np.array(start), jac=True, method="L-BFGS-B", bounds=BOUNDS, options=exact) for start in starts
    ]
    log_floor, log_a, alpha, log_b, beta = min(tried, key=lambda found: found.fun).x
    return Curve(
        floor=float(np.exp(log_floor)),
        weight_factor=float(np.exp(log_a)),
        weight_power=float(alpha),
        token_factor=float(np.exp(log_b)),
        token_power=float(beta),
    )


def fit_product(points: Sequence[Point]) -> Product:
    """Least squares on logarithms; InvalidValueError for points that fix no curve, or one that is not above 0."""
    num_sizes, num_lengths = num_apart(p.weights for p in points), num_apart(p.tokens for p in points)
    refuse_few(len(points), num_sizes=num_sizes, num_lengths=num_lengths)
    if min(point.nats for point in points) <= 0:
        raise InvalidValueError("a gain of 0 nats or less has no logarithm; leave such runs out")
    terms_P3 = np.log([(np.e, point.weights, point.tokens) for point in points])
    log_factor, *powers = np.linalg.lstsq(terms_P3, np.log([point.nats for point in points]), rcond=None)[0]
    return Product(factor=float(np.exp(log_factor)), weight_power=float(powers[0]), token_power=float(powers[1]))


def left_out(
    points: Sequence[Point], fit: Callable[[Sequence[Point]], Curve | Product]
) -> list[tuple[list[Point], Curve | Product]]:
    """For each size and length: its runs, of all seeds, and what goes through all others. What that says too much of
    these runs tells how far to trust the fit between points. Empty where the others are too few for one."""
    lengths = _firsts(point.tokens for point in points)
    cells: dict[tuple[float, int], list[Point]] = {}
    for point in points:
        length = sum(first <= point.tokens for first in lengths)
        cells.setdefault((point.weights, length), []).append(point)
    others = [[point for point in points if point not in cell] for cell in cells.values()]
    if not all(map(fixes_curve, others)):
        return []
    return [(cell, fit(rest)) for cell, rest in zip(cells.values(), others, strict=True)]
