"""The account of a run for the eye (rich tables, HTML tables) and for the next run (JSON)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from rich.table import Table

from megacontext.evaluation.cost import DecodeCost, DiskCost
from megacontext.evaluation.intervals import paired_difference
from megacontext.evaluation.scores import Comparison, MethodScore, verdicts
from megacontext.units import format_bytes, format_count

__all__ = ["Costs", "Grid", "comparison_grid", "comparison_json", "cost_grid", "html_table", "rich_table"]

OURS = ("megacontext", "learned", "oracle")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table before it is drawn. ours: numbers of the rows that are MegaContext's."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    ours: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What reading, keeping and generating cost. ingest_seconds: reading all, gists and index included."""

    ingest_tokens: int
    ingest_seconds: float
    disk: DiskCost
    decode: Sequence[DecodeCost]


def comparison_grid(comparison: Comparison) -> Grid:
    """Accuracy with its Wilson interval, NLL with its standard error and the paired difference to the first method."""
    first = comparison.scores[0]
    header = ["method", "facts found", "95 % interval", "nats per token", f"against {first.label}"]
    rows = []
    for score in comparison.scores:
        share, nll = score.accuracy, score.nll
        low, high = share.interval if share else (0.0, 0.0)
        rows.append(
            [
                score.label,
                f"{share.successes}/{share.trials} = {100 * share.value:.0f} %" if share else "-",
                f"{100 * low:.0f} to {100 * high:.0f} %" if share else "-",
                f"{nll.value:.3f} ± {nll.error:.3f}" if nll else "-",
                _difference(score, first),
            ]
        )
    ours = [number for number, score in enumerate(comparison.scores) if score.name in OURS]
    return Grid(title=comparison.title, header=header, rows=rows, ours=ours)


def cost_grid(costs: Costs) -> Grid:
    """Milliseconds per token at each length of history, bytes per token, tokens per second."""
    rows = [
        [
            f"generate, history {format_count(cost.num_tokens)}",
            f"{cost.per_token_ms:.1f} ms per token",
            f"{cost.with_refocus_ms:.1f} ms with refocuses; first token after {cost.first_ms:.0f} ms",
        ]
        for cost in costs.decode
    ]
    disk = costs.disk
    rows += [
        [
            "on disk",
            f"{disk.total:.1f} bytes per token",
            f"tokens {disk.tokens:.1f}, gists {disk.gists:.1f}, raw text {disk.raw:.1f}, catalog and index "
            f"{disk.catalog:.1f}; {format_bytes(disk.total * costs.ingest_tokens)} in all",
        ],
        [
            "read",
            f"{format_count(costs.ingest_tokens / costs.ingest_seconds)} tokens/s",
            f"{costs.ingest_tokens:,} tokens in {costs.ingest_seconds:.0f} s, gists and index included",
        ],
    ]
    return Grid(title="What it costs", header=["what", "cost", ""], rows=rows)


def rich_table(grid: Grid) -> Table:
    """The table for a terminal; our rows stand out."""
    table = Table(title=grid.title, title_justify="left", title_style="bold")
    for number, name in enumerate(grid.header):
        table.add_column(name, justify="left" if number == 0 or not name else "right", no_wrap=bool(name))
    for number, row in enumerate(grid.rows):
        table.add_row(*row, style="yellow" if number in grid.ours else None)
    return table


def html_table(grid: Grid) -> str:
    """The table for a page."""
    head = "".join(f"<th>{escape(name)}</th>" for name in grid.header)
    body = "".join(
        f"<tr{' class=ours' if number in grid.ours else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(grid.rows)
    )
    return (
        f"<div class='scroll'><table><caption>{escape(grid.title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Figures, intervals and the outcome of every trial."""
    methods = []
    for score in comparison.scores:
        share, nll = score.accuracy, score.nll
        entry = asdict(score) | {"correct": list(score.correct), "nats": [float(value) for value in score.nats]}
        if share:
            entry["accuracy"] = {"value": share.value, "interval": share.interval, "trials": share.trials}
        if nll:
            error = nll.error if math.isfinite(nll.error) else None  # of a single value nobody knows it
            entry["nll"] = {"value": nll.value, "standard_error": error, "trials": nll.count}
        methods.append(entry)
    return {
        "title": comparison.title,
        "num_tokens": comparison.num_tokens,
        "budget_entries": comparison.budget_entries,
        "methods": methods,
        "verdicts": verdicts(comparison),
    }


def _difference(score: MethodScore, first: MethodScore) -> str:
    if not len(score.nats) or not len(first.nats):
        return "-"
    if score is first:
        return "="
    difference = paired_difference(score.nats, first.nats)
    return f"{difference.value:+.3f} ± {difference.error:.3f}"
