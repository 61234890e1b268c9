"""Scores of a lens: checked once, then read as utility per token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidScoresError
from megacontext.ports.focus import CutView, FocusScores
from megacontext.values import number, shown, whole_number

__all__ = ["UtilityField", "validate_scores"]


def validate_scores(cut: CutView, scores: FocusScores) -> None:
    """Raise InvalidScoresError unless there is one finite utility >= 0 per entry and every nomination is a span of
    the history with a finite utility >= 0."""
    if not isinstance(scores, FocusScores):
        raise InvalidScoresError(f"scores is {shown(scores)}; a lens gives FocusScores")
    utility = np.asarray(scores.utility)
    if utility.ndim != 1 or len(utility) != len(cut.levels):
        raise InvalidScoresError(
            f"scores have shape {utility.shape}; the working context has {len(cut.levels)} entries, one utility each"
        )
    if utility.dtype.kind not in "fiu":
        raise InvalidScoresError(f"scores are {utility.dtype}; give floating-point utilities")
    if not np.isfinite(utility).all():
        row = int(np.argmin(np.isfinite(utility)))
        raise InvalidScoresError(f"utility of entry {row} is {utility[row]}; every utility must be finite")
    if (utility < 0).any():
        row = int(np.argmax(utility < 0))
        raise InvalidScoresError(f"utility of entry {row} is {utility[row]}; every utility must be >= 0")
    num_tokens = int(cut.stops[-1]) if len(cut.stops) else 0
    for nomination in scores.nominations:
        for name in ("start", "stop"):
            value = getattr(nomination, name)
            whole_number(f"{name} of a nomination", value, least=None, most=None, error=InvalidScoresError)
        if not 0 <= nomination.start < nomination.stop <= num_tokens:
            raise InvalidScoresError(
                f"nomination [{nomination.start}, {nomination.stop}) is not a span of the {num_tokens} tokens there are"
            )
        what = f"utility of nomination [{nomination.start}, {nomination.stop})"
        number(what, nomination.utility, least=0, error=InvalidScoresError)
    with np.errstate(over="ignore"):
        total = float(utility.sum(dtype=np.float64)) + sum(float(each.utility) for each in scores.nominations)
    if not np.isfinite(total):
        raise InvalidScoresError("the utilities together are more than a float64 holds; give them in a smaller unit")


class UtilityField:
    """Utility per token, piecewise constant over the history.

    Each entry's utility is spread evenly over its tokens, each nomination's over its own; they add up.
    """

    def __init__(self, cut: CutView, scores: FocusScores) -> None:
        validate_scores(cut, scores)
        edges = np.append(cut.starts, cut.stops[-1:])
        rows = np.arange(len(cut.starts), dtype=np.int64)
        densities = np.asarray(scores.utility, dtype=np.float64) / (cut.stops - cut.starts)
        live = [nomination for nomination in scores.nominations if nomination.utility > 0]
        self.nominated = np.array([(n.start, n.stop) for n in live], dtype=np.int64).reshape(-1, 2)
        if live:
            rates = np.array([n.utility for n in live]) / (self.nominated[:, 1] - self.nominated[:, 0])
            merged = np.union1d(edges, self.nominated)
            rows = np.searchsorted(edges, merged[:-1], side="right") - 1
            densities = densities[rows]
            for first, last, rate in zip(*np.searchsorted(merged, self.nominated).T, rates, strict=True):
                densities[first:last] += rate
            edges = merged
        self.rows: npt.NDArray[np.int64] = rows  # of the cut, per segment between edges
        self.edges: npt.NDArray[np.int64] = edges
        self.densities: npt.NDArray[np.float64] = densities
        self._cumulative = np.concatenate(([0.0], np.cumsum(densities * np.diff(edges))))

    def up_to(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Utility of ``[0, position)`` for each position."""
        if not len(self.densities):
            return np.zeros(len(positions))
        positions = np.minimum(positions, self.edges[-1])  # of what came since nobody has said anything
        rows = np.clip(np.searchsorted(self.edges, positions, side="right") - 1, 0, len(self.densities) - 1)
        reached: npt.NDArray[np.float64] = self._cumulative[rows] + self.densities[rows] * (
            positions - self.edges[rows]
        )
        return reached

    def over(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Utility of each span ``[start, stop)``."""
        return np.maximum(self.up_to(stops) - self.up_to(starts), 0.0)
