"""Pictures of two promises over a range: what generating costs by length of history, and drift by number of refocuses.

Made from the committed JSON, as ``report.py`` makes its page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, LEVEL_COLORS, TEXT

__all__ = ["DRIFT_PICTURE", "HISTORY_PICTURE", "draw_drift", "draw_history", "drift_lines", "history_lines"]

HISTORY_PICTURE, DRIFT_PICTURE = "cost-by-history.png", "drift-by-refocuses.png"
SCALES = {"k": 1e3, "M": 1e6, "G": 1e9}
AT_LENGTH = re.compile(
    r"(?P<kind>decode step between refocuses|generate, per token|refocus on a question): "
    r"(?P<long>.+) of history / (?P<short>.+)"
)
RENAMED = {"generate, per token": "decode step between refocuses"}  # as earlier results call it
DRIFTED = re.compile(r"(?P<base>.+), as by default, (?P<number>\d+) refocuses: nats more than exact")
COLORS = (*LEVEL_COLORS[:3], TEXT, DIM)  # those that stand out from the background
MOST_NATS = 0.01  # more than exact, the target
# Of what a refocus costs at the shortest history: below it the words alone found the place, and no window ran.
WITHOUT_WINDOW = 0.5

Points = list[tuple[float, float]]


def history_lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Tokens of history and milliseconds, by what was timed."""
    lines: dict[str, Points] = {}
    for row in rows:
        if (named := AT_LENGTH.fullmatch(row["what"])) is not None:
            kind = RENAMED.get(named["kind"], named["kind"])
            points = lines.setdefault(kind, [(_tokens(named["short"]), row["short_ms"])])
            points.append((_tokens(named["long"]), row["long_ms"]))
    return {kind: sorted(points) for kind, points in lines.items()}


def drift_lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float]]]:
    """Refocuses, nats more than exact and their standard error, by base."""
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if (named := DRIFTED.fullmatch(row["what"])) is not None:
            point = (float(named["number"]), row["value"], row["standard_error"])
            lines.setdefault(named["base"], []).append(point)
    return {base: sorted(points) for base, points in lines.items()}


def draw_history(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Both costs over the length of the history, on logarithmic axes."""
    figure, axes = _axes("What a longer history costs")
    for (kind, points), color in zip(history_lines(rows).items(), COLORS, strict=False):
        above = -16 if kind in RENAMED.values() else 8  # points
        alone = [point for point in points if point[1] < WITHOUT_WINDOW * points[0][1]]
        axes.plot(*zip(*(point for point in points if point not in alone), strict=True), "o-", color=color, label=kind)
        for tokens, ms in points:
            is_alone = (tokens, ms) in alone
            if is_alone:  # no part of the line: another thing was timed
                axes.plot(tokens, ms, "o", color=color, fillstyle="none")
            said = f"{ms:.3g} ms, by words alone" if is_alone else f"{ms:.3g} ms"
            axes.annotate(
                said,
                (tokens, ms),
                (0, above),
                textcoords="offset points",
                ha="right" if is_alone else "center",
                fontsize=8.5,
            )
    axes.set(xscale="log", yscale="log", ylim=(1, 500), xlabel="tokens of history", ylabel="milliseconds")
    _save(figure, axes, path)


def draw_drift(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every base's nats more than exact, with standard errors, and the target."""
    figure, axes = _axes("What patching a window costs, refocus after refocus")
    lines = drift_lines(rows)
    for place, ((base, points), color) in enumerate(zip(lines.items(), COLORS, strict=False)):
        numbers, nats, errors = zip(*points, strict=True)
        apart = [number * 1.06 ** (place - len(lines) / 2) for number in numbers]  # or bars would hide each other
        axes.errorbar(apart, nats, errors, fmt="o-", capsize=3, color=color, label=base)
    axes.axhline(MOST_NATS, color=TEXT, linestyle="--", linewidth=1)
    axes.annotate("target", (64, MOST_NATS), (0, 4), textcoords="offset points", ha="center", fontsize=8.5)
    axes.axhline(0, color=DIM, linewidth=0.8)
    axes.set(xscale="log", ylim=(-0.012, 0.016), xlabel="refocuses in a row", ylabel="nats a token more than exact")
    axes.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    axes.minorticks_off()
    _save(figure, axes, path)


def _tokens(text: str) -> float:
    number, unit = text.split()
    return float(number) * SCALES[unit]


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), dpi=110, facecolor=BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=BACKGROUND)
    axes.set_title(title, color=TEXT, loc="left")
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=DIM, which="both")
    axes.xaxis.label.set_color(TEXT)
    axes.yaxis.label.set_color(TEXT)
    for name, side in axes.spines.items():
        side.set_visible(name in {"left", "bottom"})
        side.set_color(FAINT)
    for text in axes.texts:
        text.set_color(TEXT)
    legend = axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="upper left")
    for text in legend.get_texts():
        text.set_color(TEXT)
    figure.savefig(path, facecolor=BACKGROUND)
