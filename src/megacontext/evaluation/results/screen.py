"""The account of an evaluation as tables of text: methods down, parts across."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from megacontext.evaluation.methods.contenders import Contender
from megacontext.evaluation.report import Grid
from megacontext.evaluation.results.account import Cell, Table, TaskAccount
from megacontext.evaluation.results.estimates import Estimate

__all__ = ["closure", "difference", "figure", "grids", "interval", "is_partial", "notes", "table_grid"]

OURS = ("gists", "lens")


NUM_METRICS = 2  # on a screen; the report has all


def grids(account: TaskAccount, rows: Sequence[Contender], *, num_metrics: int = NUM_METRICS) -> list[Grid]:
    """One table for each group of histories and each of the first metrics."""
    shown = account.task.metrics[:num_metrics]
    return [table_grid(account.task.name, table, rows) for table in account.tables if table.metric in shown]


def table_grid(name: str, table: Table, rows: Sequence[Contender]) -> Grid:
    """Figures by part, then the difference to recency and the closure over all parts."""
    last = table.parts[-1]
    shown = [row for row in rows if row.name in table.cells]
    body = []
    for row in shown:
        cells = table.cells[row.name]
        whole = cells.get(last)
        body.append(
            [
                row.label,
                *(_shown(table, row.name, part) for part in table.parts),
                difference(whole),
                closure(whole),
            ]
        )
    title = ", ".join(text for text in (name, table.title, table.metric.title) if text)
    return Grid(
        title=title,
        header=["method", *table.parts, "against recency", "closure"],
        rows=body,
        ours=[number for number, row in enumerate(shown) if row.kind in OURS],
    )


def _shown(table: Table, method: str, part: str) -> str:
    """The figure, with a star where the method did not meet all of the part."""
    cell = table.cells[method].get(part)
    if cell is None:
        return "-"
    star = "*" if is_partial(table, method, part) else ""
    return figure(cell, is_share=not table.metric.is_loss) + star


def figure(cell: Cell, *, is_share: bool) -> str:
    """``0.40``."""
    return f"{cell.estimate.value:.2f}" if is_share else f"{cell.estimate.value:.3f}"


def difference(cell: Cell | None) -> str:
    """``+0.40 [+0.10, +0.60]``."""
    if cell is None or cell.against_recency is None:
        return "-"
    return f"{cell.against_recency.value:+.3f} {interval(cell.against_recency, '+.3f')}"


def closure(cell: Cell | None) -> str:
    """The closure with its interval, or why there is none."""
    if cell is None:
        return "-"
    if cell.is_beyond_controls is False:
        return "no more than control"
    if cell.closure is None:
        return "-"
    return f"{cell.closure.value:.2f} {interval(cell.closure, '.2f')}"


def interval(estimate: Estimate, form: str) -> str:
    """``[0.10, 0.60]``, ``[?]`` where nothing is known."""
    if not math.isfinite(estimate.low):
        return "[?]"
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def notes(account: TaskAccount, rows: Sequence[Contender]) -> list[str]:
    """Why some methods have no figures, one line for each kind of reason."""
    labels = {row.name: row.label for row in rows}
    kinds: dict[str, tuple[str, dict[str, None]]] = {}
    for name, reasons in account.skipped.items():
        for reason in reasons:
            kind = re.sub(r"a prompt of .* answer of up to|the question and what follows|\d+", "#", reason)
            kinds.setdefault(kind, (reason, {}))[1][labels.get(name, name)] = None
    return [f"{', '.join(who)}: {example}" for example, who in kinds.values()]


def is_partial(table: Table, method: str, part: str) -> bool:
    """Whether a method met less of a part than others did: its figure is not to be compared, its differences are."""
    counts = [cells[part].estimate.count for cells in table.cells.values() if part in cells]
    return table.cells[method][part].estimate.count < max(counts)
