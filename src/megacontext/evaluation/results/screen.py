"""The account of an evaluation as tables of text: methods down, parts across."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.evaluation.methods.contenders import Contender
from megacontext.evaluation.report import Grid
from megacontext.evaluation.results.account import Cell, Table, TaskAccount

__all__ = ["figure", "grids", "notes"]

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
                *(
                    figure(cells[part], is_share=not table.metric.is_loss) if part in cells else "-"
                    for part in table.parts
                ),
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


def figure(cell: Cell, *, is_share: bool) -> str:
    """``0.40``."""
    return f"{cell.estimate.value:.2f}" if is_share else f"{cell.estimate.value:.3f}"


def difference(cell: Cell | None) -> str:
    """``+0.40 [+0.10, +0.60]``."""
    if cell is None or cell.against_recency is None:
        return "-"
    found = cell.against_recency
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def closure(cell: Cell | None) -> str:
    """The closure with its interval, or why there is none."""
    if cell is None:
        return "-"
    if cell.is_beyond_controls is False:
        return "no more than control"
    if cell.closure is None:
        return "-"
    return f"{cell.closure.value:.2f} [{cell.closure.low:.2f}, {cell.closure.high:.2f}]"


def notes(account: TaskAccount, rows: Sequence[Contender]) -> list[str]:
    """Why some methods have no figures."""
    labels = {row.name: row.label for row in rows}
    return [f"{labels.get(name, name)}: {reason}" for name, reasons in account.skipped.items() for reason in reasons]
