"""The picture of a run: where detail lay over time, and what it bought. Needs matplotlib (extra ``figures``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.errors import UnknownNameError
from megacontext.evaluation.cost import DecodeCost
from megacontext.evaluation.focus_trace import FocusStep, FocusTrace, joined_sources, raster, ribbons, showcase
from megacontext.evaluation.intervals import paired_difference
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, LEVEL_COLORS, TEXT, level_color, level_name
from megacontext.evaluation.scores import Comparison
from megacontext.units import format_count

__all__ = ["draw_figure"]

NUM_COLUMNS = 640  # a cell is wide enough to be seen
ZOOM_TOKENS = 2048
DPI = 160


def draw_figure(
    path: Path, trace: FocusTrace, comparison: Comparison | None = None, costs: Sequence[DecodeCost] = ()
) -> None:
    """Write a PNG: the window of one step on top, all steps below, figures at the bottom."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnknownNameError(
            "pictures need matplotlib; install it with: pip install 'megacontext[figures]'"
        ) from error
    style = {"font.family": "DejaVu Sans", "text.color": TEXT, "axes.labelcolor": DIM, "axes.edgecolor": FAINT}
    with mpl.rc_context({**style, "xtick.color": DIM, "ytick.color": DIM, "axes.facecolor": BACKGROUND}):
        figure = Figure(figsize=(14, 11), dpi=DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(figure)
        bottom = 0.30 if comparison else 0.06
        upper = figure.add_gridspec(
            2, 1, height_ratios=(2.0, 4.1), left=0.055, right=0.975, top=0.865, bottom=bottom, hspace=0.30
        )
        _fan(figure.add_subplot(upper[0]), showcase(trace))
        columns = upper[1].subgridspec(1, 2, width_ratios=(4.6, 1), wspace=0.03)
        _time(figure.add_subplot(columns[0]), figure.add_subplot(columns[1]), trace)
        if comparison:
            panels = figure.add_gridspec(1, 3, left=0.11, right=0.975, top=0.20, bottom=0.06, wspace=0.55)
            _accuracy(figure.add_subplot(panels[0]), comparison)
            _continuations(figure.add_subplot(panels[1]), comparison)
            _speed(figure.add_subplot(panels[2]), costs)
        _title(figure, trace)
        figure.savefig(path, facecolor=BACKGROUND)


def _title(figure: Any, trace: FocusTrace) -> None:
    figure.text(0.055, 0.955, "Where the detail lay", fontsize=24, fontweight="bold", va="center")
    figure.text(
        0.055,
        0.922,
        f"{format_count(trace.num_tokens)} tokens of books and source code, seen through a window of "
        f"{trace.budget_entries:,} entries, moved by {len(trace.steps)} questions",
        fontsize=12,
        color=DIM,
        va="center",
    )
    for place, level in enumerate(range(trace.num_levels)):
        left = 0.60 + 0.076 * place
        figure.patches.append(_rectangle(figure, left, 0.944, level_color(level)))
        figure.text(left + 0.018, 0.950, level_name(level), fontsize=9, va="center")


def _rectangle(figure: Any, left: float, bottom: float, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, bottom), 0.013, 0.013, transform=figure.transFigure, facecolor=color, edgecolor="none")


def _fan(axes: Any, step: FocusStep) -> None:
    """The history above, the window below, and which part of one fills which part of the other."""
    budget = max(ribbon.window_stop for ribbon in ribbons(step))
    axes.set(xlim=(0, 1), ylim=(-0.04, 1.0))
    axes.set_axis_off()
    for ribbon in sorted(ribbons(step), key=lambda ribbon: -ribbon.level):
        color = level_color(ribbon.level)
        top = np.array([ribbon.start, ribbon.stop]) / step.num_tokens
        low = np.array([ribbon.window_start, ribbon.window_stop]) / budget
        raw = ribbon.level == 0
        axes.fill([*top, low[1], low[0]], [0.80, 0.80, 0.2, 0.2], color=color, alpha=0.55 if raw else 0.20, lw=0)
        axes.fill([top[0], top[1], top[1], top[0]], [0.80, 0.80, 0.97, 0.97], color=color, lw=1.5 if raw else 0)
        axes.fill([low[0], low[1], low[1], low[0]], [0.03, 0.03, 0.2, 0.2], color=color, lw=0)
    if step.evidence:
        place = step.evidence[0] / step.num_tokens
        axes.plot([place], [1.015], marker="v", color=TEXT, markersize=7, clip_on=False)
        axes.text(place + 0.008, 1.03, "the answer stands here", fontsize=9, color=TEXT, va="center")
    axes.text(0, 1.09, f"One question: “{step.label}”", fontsize=12, fontweight="bold")
    axes.text(1, 1.03, f"history: {step.num_tokens:,} tokens", fontsize=9, color=DIM, ha="right", va="center")
    axes.text(
        1, -0.05, f"what the model saw: {budget:,} window entries", fontsize=9, color=DIM, ha="right", va="center"
    )


def _time(whole: Any, zoom: Any, trace: FocusTrace) -> None:
    """All steps: the whole history, and its last tokens under the magnifying glass."""
    num_tokens = trace.num_tokens
    shown = min(ZOOM_TOKENS, num_tokens)
    for axes, start, columns in ((whole, 0, NUM_COLUMNS), (zoom, num_tokens - shown, NUM_COLUMNS // 4)):
        levels = raster(trace.steps, start=start, stop=num_tokens, num_columns=columns)
        axes.imshow(
            _colors(levels),
            aspect="auto",
            interpolation="nearest",
            extent=(start, num_tokens, len(trace.steps) + 0.5, 0.5),
        )
        axes.tick_params(length=3, labelsize=9)
        for side in axes.spines.values():
            side.set_color(FAINT)
    _evidence(whole, trace)
    step = 1 if len(trace.steps) <= 12 else 5
    whole.set_yticks(range(step, len(trace.steps) + 1, step))
    whole.set_ylabel("question", fontsize=10)
    whole.set_xlabel("position in the history, tokens", fontsize=10)
    whole.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")
    whole.set_title("Every question moves the detail", loc="left", fontsize=12, fontweight="bold", pad=22)
    whole.text(
        0.32,
        1.105,
        "circle: where the answer stands; filled: answered right",
        transform=whole.transAxes,
        fontsize=9,
        color=DIM,
        va="center",
    )
    _sources(whole, trace)
    zoom.set_yticks([])
    zoom.set_title(f"last {shown:,} tokens", loc="left", fontsize=10, color=DIM, pad=6)
    zoom.set_xticks([num_tokens - shown, num_tokens], [f"-{shown:,}", "now"])
    zoom.get_xticklabels()[0].set_horizontalalignment("left")
    zoom.get_xticklabels()[1].set_horizontalalignment("right")


def _evidence(axes: Any, trace: FocusTrace) -> None:
    for number, step in enumerate(trace.steps, start=1):
        if step.evidence:
            face = TEXT if step.correct else "none"
            size = 5.0 if len(trace.steps) <= 40 else 3.6
            axes.plot([step.evidence[0]], [number], "o", ms=size, mfc=face, mec=TEXT, mew=0.9, clip_on=False)


def _sources(axes: Any, trace: FocusTrace) -> None:
    """A strip above the raster that tells books from code."""
    for start, stop, title, kind in joined_sources(trace):
        axes.axvspan(start, stop, ymin=1.004, ymax=1.022, color=DIM if kind == "book" else FAINT, lw=0, clip_on=False)
        if stop - start > 0.07 * trace.num_tokens:
            axes.text(
                (start + stop) / 2,
                1.03,
                title,
                transform=axes.get_xaxis_transform(),
                fontsize=7.5,
                color=DIM,
                ha="center",
                va="bottom",
            )


def _accuracy(axes: Any, comparison: Comparison) -> None:
    scores = [score for score in comparison.scores if score.accuracy]
    places = np.arange(len(scores))[::-1]
    for place, score in zip(places, scores, strict=True):
        share = score.accuracy
        assert share is not None
        low, high = share.interval
        axes.barh(place, 100 * share.value, color=_bar_color(score.name), height=0.62)
        axes.plot([100 * low, 100 * high], [place, place], color=TEXT, lw=1.2)
        axes.text(104, place, f"{100 * share.value:.0f} %", va="center", fontsize=9)
    axes.set_yticks(places, [score.label for score in scores], fontsize=9)
    axes.set_xlim(0, 100)
    _panel(axes, f"Hidden facts found (n = {len(scores[0].correct) if scores else 0})", "per cent, 95 % interval")


def _continuations(axes: Any, comparison: Comparison) -> None:
    scores = [score for score in comparison.scores if score.nll]
    places = np.arange(len(scores))[::-1]
    base = scores[0].nll.value if scores and scores[0].nll else 0.0
    for place, score in zip(places, scores, strict=True):
        difference = paired_difference(score.nats, scores[0].nats)
        axes.barh(place, difference.value, color=_bar_color(score.name), height=0.62)
        if difference.count > 1:  # one alone says nothing of chance
            axes.plot(difference.interval, [place, place], color=TEXT, lw=1.2)
        axes.text(
            1.03, place, f"{np.mean(score.nats):.3f}", va="center", fontsize=9, transform=axes.get_yaxis_transform()
        )
    axes.axvline(0, color=FAINT, lw=1)
    axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(places, [score.label for score in scores], fontsize=9)
    _panel(
        axes,
        "Held-out text",
        f"nats per token more than {scores[0].label if scores else ''} ({base:.3f}); less is better",
    )


def _speed(axes: Any, costs: Sequence[DecodeCost]) -> None:
    if costs:
        lengths = [cost.num_tokens for cost in costs]
        axes.plot(lengths, [cost.per_token_ms for cost in costs], "o-", color=LEVEL_COLORS[0], lw=2, ms=6)
        for cost in costs:
            axes.text(cost.num_tokens, cost.per_token_ms * 1.12, f"{cost.per_token_ms:.1f}", ha="center", fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(min(lengths) / 2, max(lengths) * 2)
        axes.set_ylim(0, 1.6 * max(cost.per_token_ms for cost in costs))
        axes.set_xticks(lengths, [format_count(length) for length in lengths])
        axes.minorticks_off()
    _panel(axes, "Milliseconds per token", "tokens of history (between refocuses)")


def _panel(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(length=3, labelsize=9)
    for name, side in axes.spines.items():
        side.set_visible(name in ("bottom", "left"))


def _bar_color(name: str) -> str:
    return {"megacontext": LEVEL_COLORS[0], "learned": LEVEL_COLORS[2], "oracle": LEVEL_COLORS[1]}.get(name, DIM)


def _colors(levels: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An RGB image of a raster; what is not history yet stays background."""
    table = np.array([_rgb(level_color(level)) for level in range(max(1, int(levels.max()) + 1))] + [_rgb(BACKGROUND)])
    image: np.ndarray[Any, np.dtype[np.uint8]] = table[levels].astype(np.uint8)
    return image


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
