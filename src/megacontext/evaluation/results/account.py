"""From records to what a report says: for each task, its tables, what each control allows to claim, and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megacontext.evaluation.methods.contenders import Contender
from megacontext.evaluation.results.estimates import Estimate, Outcomes
from megacontext.evaluation.runs.records import Record
from megacontext.evaluation.runs.trials import ItemResult
from megacontext.evaluation.tasks.task import Metric, Task

__all__ = ["ALL", "Cell", "Table", "TaskAccount", "account_json", "account_of", "facet_of"]

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method in one part. against: paired differences to recency and to full context; closure: the share of their
    gap, None where there is none or where a control of the method reaches as much (``is_beyond_controls`` is False)."""

    estimate: Estimate
    against_recency: Estimate | None = None
    against_full: Estimate | None = None
    closure: Estimate | None = None
    is_beyond_controls: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One metric in one group of histories. parts: its columns, ``all`` last; cells by method, then by part; gaps: what
    full context gains over recency in each part."""

    title: str
    metric: Metric
    parts: Sequence[str]
    cells: Mapping[str, Mapping[str, Cell]]
    gaps: Mapping[str, Estimate | None]


@dataclass(frozen=True, kw_only=True)
class TaskAccount:
    """Everything about one task. skipped: why methods have no figures, by method."""

    task: Task
    tables: Sequence[Table]
    skipped: Mapping[str, Sequence[str]]
    num_histories: int
    seconds: float


def account_of(task: Task, records: Sequence[Record], rows: Sequence[Contender]) -> TaskAccount:
    """All tables of a task: one for each metric and each group of histories."""
    records = [record for record in records if record.task == task.name]
    *group_facets, column = task.columns
    groups = _values(records, group_facets)
    tables = [
        table
        for group in groups
        for metric in task.metrics
        if (table := _table(task, records, rows, metric, dict(zip(group_facets, group, strict=True)), column))
    ]
    skipped: dict[str, list[str]] = {}
    for record in records:
        if record.skipped and record.skipped not in skipped.setdefault(record.method, []):
            skipped[record.method].append(record.skipped)
    return TaskAccount(
        task=task,
        tables=tables,
        skipped=skipped,
        num_histories=len({record.key for record in records}),
        seconds=sum(record.seconds for record in records),
    )


def account_json(account: TaskAccount) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "summary": account.task.summary,
        "source": account.task.source,
        "histories": account.num_histories,
        "seconds": round(account.seconds, 1),
        "skipped": account.skipped,
        "tables": [
            {
                "title": table.title,
                "metric": table.metric.name,
                "lower_is_better": table.metric.is_loss,
                "gap_between_recency_and_full": {part: _plain(gap) for part, gap in table.gaps.items()},
                "methods": {
                    method: {part: _plain(cell) for part, cell in cells.items()}
                    for method, cells in table.cells.items()
                },
            }
            for table in account.tables
        ],
    }


def _plain(value: Cell | Estimate | None) -> Any:
    """As data; what is infinite (an interval that nothing is known of) is null."""
    return _finite(asdict(value)) if value is not None else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def facet_of(record: Record, item: ItemResult, name: str) -> str:
    return item.facets.get(name, record.facets.get(name, ""))


def _values(records: Sequence[Record], facets: Sequence[str]) -> list[tuple[str, ...]]:
    """The combinations that occur, in order of their first."""
    found = {
        tuple(facet_of(record, item, name) for name in facets): None for record in records for item in record.items
    }
    return list(found)


def _table(
    task: Task,
    records: Sequence[Record],
    rows: Sequence[Contender],
    metric: Metric,
    group: Mapping[str, str],
    column: str,
) -> Table | None:
    def outcomes(part: str) -> Outcomes:
        wanted = dict(group) if part == ALL else {**group, column: part}

        def selects(record: Record, item: ItemResult) -> bool:
            return all(facet_of(record, item, name) == value for name, value in wanted.items())

        return Outcomes(records, metric.name, selects=selects, is_share=not metric.is_loss)

    inside = [
        record
        for record in records
        if any(all(facet_of(record, item, name) == value for name, value in group.items()) for item in record.items)
    ]
    names = [part for (part,) in _values(inside, [column]) if part]
    found = {part: outcomes(part) for part in ([*names, ALL] if len(names) > 1 else names or [ALL])}
    found = {part: outcome for part, outcome in found.items() if outcome.methods}
    if not found:
        return None
    cells = {
        row.name: {part: cell for part, outcome in found.items() if (cell := _cell(outcome, row.name, rows, metric))}
        for row in rows
    }
    return Table(
        title=", ".join(f"{name} {value}" for name, value in group.items()),
        metric=metric,
        parts=list(found),
        cells={name: parts for name, parts in cells.items() if parts},
        gaps={part: outcome.gap() for part, outcome in found.items()},
    )


def _cell(outcomes: Outcomes, method: str, rows: Sequence[Contender], metric: Metric) -> Cell | None:
    estimate = outcomes.estimate(method)
    if estimate is None:
        return None
    is_beyond = _is_beyond_controls(outcomes, method, rows, metric)
    return Cell(
        estimate=estimate,
        against_recency=outcomes.difference(method, "recency"),
        against_full=outcomes.difference(method, "full"),
        closure=None if is_beyond is False else outcomes.closure(method),
        is_beyond_controls=is_beyond,
    )


def _is_beyond_controls(outcomes: Outcomes, method: str, rows: Sequence[Contender], metric: Metric) -> bool | None:
    """Whether a method is better than each of its controls by more than chance; None if it has none here."""
    row = next(row for row in rows if row.name == method)
    controls = [other.name for other in rows if other.of == method and other.kind == "control"]
    if row.kind == "lens":
        controls += [other.name for other in rows if other.name == "random"]
    differences = [found for name in controls if (found := outcomes.difference(method, name)) is not None]
    if not differences:
        return None
    return all(found.high < 0 if metric.is_loss else found.low > 0 for found in differences)
