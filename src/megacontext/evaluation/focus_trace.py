"""Where detail lay over time: cuts recorded refocus by refocus, and their shapes for a picture.

Levels of detail become a raster (rows: refocuses, columns: equal stretches of the history, value: the finest level
shown there) and ribbons (which stretch of the history fills which part of the window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.focus.working_context import WorkingContext
from megacontext.tree.cuts import Cut, entry_costs

__all__ = ["FocusStep", "FocusTrace", "Ribbon", "joined_sources", "raster", "ribbons", "showcase"]


@dataclass(frozen=True, kw_only=True)
class FocusStep:
    """One refocus. label: the question or ''; cut: the working context after it; num_tokens: history then; evidence:
    where the answer stands, or None; correct: whether the answer was right, or None if there was no question."""

    label: str
    cut: Cut
    num_tokens: int
    gist_width: int
    evidence: tuple[int, int] | None = None
    correct: bool | None = None

    @classmethod
    def of(
        cls,
        label: str,
        wc: WorkingContext,
        *,
        evidence: tuple[int, int] | None = None,
        correct: bool | None = None,
    ) -> FocusStep:
        return cls(
            label=label,
            cut=wc.cut,
            num_tokens=wc.num_tokens,
            gist_width=wc.gist_width,
            evidence=evidence,
            correct=correct,
        )


@dataclass(frozen=True, kw_only=True)
class FocusTrace:
    """Steps in order, and the borders of what was read: ``(first token, title, kind)`` per source."""

    steps: Sequence[FocusStep]
    sources: Sequence[tuple[int, str, str]]
    budget_entries: int

    @property
    def num_tokens(self) -> int:
        return max(step.num_tokens for step in self.steps)

    @property
    def num_levels(self) -> int:
        return 1 + max(int(step.cut.levels.max()) for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Ribbon:
    """A run of neighbouring entries of one level: tokens [start, stop) of the history fill window positions
    [window_start, window_stop)."""

    level: int
    start: int
    stop: int
    window_start: int
    window_stop: int


def raster(
    steps: Sequence[FocusStep], *, start: int, stop: int, num_columns: int, missing: int = -1
) -> npt.NDArray[np.int64]:
    """Finest level shown, int64 [steps, num_columns], of each column's stretch of tokens ``[start, stop)``; ``missing``
    beyond the history of a step."""
    finest = np.full((len(steps), num_columns), missing, dtype=np.int64)
    scale = num_columns / (stop - start)
    for row, step in zip(finest, steps, strict=True):
        order = np.argsort(-step.cut.levels, kind="stable")  # coarse first, so that fine entries paint over them
        lefts = np.floor((step.cut.starts - start) * scale).astype(np.int64)
        rights = np.ceil((step.cut.stops - start) * scale).astype(np.int64)
        for entry in order:
            left, right = max(0, lefts[entry]), min(num_columns, rights[entry])
            if left < right:
                row[left:right] = step.cut.levels[entry]
    return finest


def ribbons(step: FocusStep) -> list[Ribbon]:
    """The window of a step as runs of entries of one level, in order."""
    costs = entry_costs(step.cut, step.gist_width)
    ends = np.cumsum(costs)
    runs: list[Ribbon] = []
    for level, start, stop, end, cost in zip(
        step.cut.levels.tolist(),
        step.cut.starts.tolist(),
        step.cut.stops.tolist(),
        ends.tolist(),
        costs.tolist(),
        strict=True,
    ):
        if runs and runs[-1].level == level:
            last = runs.pop()
            run = Ribbon(level=level, start=last.start, stop=stop, window_start=last.window_start, window_stop=int(end))
        else:
            run = Ribbon(level=level, start=start, stop=stop, window_start=int(end - cost), window_stop=int(end))
        runs.append(run)
    return runs


def joined_sources(trace: FocusTrace) -> list[tuple[int, int, str, str]]:
    """``(start, stop, title, kind)`` of what was read, neighbouring modules as one stretch of ``source code``."""
    stops = [start for start, *_ in trace.sources[1:]] + [trace.num_tokens]
    joined: list[tuple[int, int, str, str]] = []
    for (start, title, kind), stop in zip(trace.sources, stops, strict=True):
        if kind == "code" and joined and joined[-1][3] == "code":
            joined[-1] = (joined[-1][0], stop, "source code", kind)
        else:
            joined.append((start, stop, "source code" if kind == "code" else title.split(",")[0], kind))
    return joined


def showcase(trace: FocusTrace) -> FocusStep:
    """The step to look at closely: a right answer whose place is far from both ends, if there is one."""
    answered = [step for step in trace.steps if step.correct and step.evidence]
    return min(
        answered or list(trace.steps),
        key=lambda step: abs(step.evidence[0] / step.num_tokens - 0.4) if step.evidence else 1.0,
    )
