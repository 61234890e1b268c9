"""The report as a picture: a panel for each task, figures with intervals. Needs matplotlib (extra ``figures``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.evaluation.methods.contenders import Contender
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, TEXT
from megacontext.evaluation.results.account import Table, TaskAccount
from megacontext.evaluation.results.page import KIND_COLORS, KIND_NAMES, memory_shape

__all__ = ["draw_report"]

DPI = 130
NUM_COLUMNS = 2


def draw_report(
    path: Path, about: Mapping[str, Any], accounts: Sequence[TaskAccount], rows: Mapping[str, Sequence[Contender]]
) -> None:
    """Write the PNG: the first metric of each task that tells rows apart, in its last group of histories."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(account, table) for account in accounts if (table := telling_table(account)) is not None]
    num_rows = max(1, math.ceil(len(panels) / NUM_COLUMNS))
    style = {"font.family": "DejaVu Sans", "text.color": TEXT, "axes.labelcolor": DIM, "axes.edgecolor": FAINT}
    with mpl.rc_context({**style, "xtick.color": DIM, "ytick.color": DIM, "axes.facecolor": BACKGROUND}):
        height = 1.6 + 4.6 * num_rows
        figure = Figure(figsize=(15, height), dpi=DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(figure)
        settings = about["settings"]
        figure.text(0.03, 1 - 0.45 / height, "What memory is worth", fontsize=22, fontweight="bold", va="center")
        figure.text(
            0.03,
            1 - 0.95 / height,
            f"{settings['base']}, window of {settings['budget_entries']:,} entries, {memory_shape(settings)}\n"
            f"commit {about['commit'] or 'unknown'}" + (", quick run" if settings["is_quick"] else ""),
            fontsize=11,
            color=DIM,
            va="center",
        )
        for number, (kind, name) in enumerate(KIND_NAMES.items()):
            x = 0.55 + 0.145 * (number % 3)
            y = 1 - (0.45 + 0.35 * (number // 3)) / height
            figure.text(x, y, f"\N{BLACK CIRCLE} {name}", color=KIND_COLORS[kind], fontsize=10, va="center")
        grid = figure.add_gridspec(
            num_rows,
            NUM_COLUMNS,
            left=0.15,
            right=0.97,
            top=1 - 1.5 / height,
            bottom=0.5 / height,
            wspace=0.5,
            hspace=0.3,
        )
        for number, (account, table) in enumerate(panels):
            axes = figure.add_subplot(grid[number // NUM_COLUMNS, number % NUM_COLUMNS])
            _panel(axes, account, table, rows[account.task.name])
        figure.savefig(path, facecolor=BACKGROUND)


def telling_table(account: TaskAccount) -> Table | None:
    """The first table whose rows differ at all; the first of all if none does."""
    for table in account.tables:
        values = {cells[table.parts[-1]].estimate.value for cells in table.cells.values() if table.parts[-1] in cells}
        if len(values) > 1:
            return table
    return next(iter(account.tables), None)


def _panel(axes: Any, account: TaskAccount, table: Table, rows: Sequence[Contender]) -> None:
    part = table.parts[-1]
    shown = [row for row in rows if part in table.cells.get(row.name, {})]
    for number, row in enumerate(shown):
        found, color = table.cells[row.name][part].estimate, KIND_COLORS[row.kind]
        if math.isfinite(found.low):
            axes.plot([found.low, found.high], [number, number], color=color, lw=2, alpha=0.6)
        axes.plot([found.value], [number], "o", color=color, ms=6)
    for name in ("recency", "full"):
        if part in table.cells.get(name, {}):
            axes.axvline(table.cells[name][part].estimate.value, color=FAINT, lw=1, ls="--", zorder=0)
    axes.set_yticks(range(len(shown)), [row.label for row in shown], fontsize=8)
    for label, row in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(KIND_COLORS[row.kind])
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    better = "left is better" if table.metric.is_loss else "right is better"
    where = f", {table.title}" if table.title else ""
    axes.set_title(f"{account.task.name}{where}: {table.metric.title} ({better})", fontsize=10, color=TEXT, loc="left")
