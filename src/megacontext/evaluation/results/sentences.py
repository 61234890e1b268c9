"""What a table allows to say, in words: the gap, the best within budget, and what does not beat its control."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.evaluation.methods.contenders import Contender
from megacontext.evaluation.results.account import Cell, Table
from megacontext.evaluation.results.estimates import LEAST_GAP
from megacontext.evaluation.results.screen import difference, interval

__all__ = ["sentences"]

RIVALS = ("plain", "gists", "lens")


def sentences(table: Table, rows: Sequence[Contender]) -> list[str]:
    """At most three sentences on the last column of a table (all parts together)."""
    part = table.parts[-1]
    cells = {row.name: table.cells[row.name][part] for row in rows if part in table.cells.get(row.name, {})}
    said = [_gap(table, cells)] if "recency" in cells else []
    rivals = [row for row in rows if row.kind in RIVALS and row.name in cells]
    if rivals:
        said.append(_best(table, cells, rivals))
    gists = [row for row in rows if row.kind == "gists" and row.name in cells]
    if gists:
        said.append(_controls(cells, gists))
    return said


def _gap(table: Table, cells: dict[str, Cell]) -> str:
    gap = table.gaps[table.parts[-1]]
    if "full" not in cells or gap is None:
        return "Full context does not fit or was not asked for: there is no gap to close here."
    unit = "nats per token" if table.metric.is_loss else "of the share"
    said = f"Full context gains {gap.value:+.3f} {interval(gap, '+.3f')} {unit} over recency"
    return f"{said}." if gap.value >= LEAST_GAP else f"{said}: too little for closures."


def _best(table: Table, cells: dict[str, Cell], rivals: Sequence[Contender]) -> str:
    """The best against recency: differences are paired, so that rows which met less of a part are judged fairly."""
    found = {row: cell for row in rivals if (cell := cells[row.name]).against_recency is not None}
    if not found:
        alone = "recency" in cells
        return "Nothing stands beside recency." if alone else "Without recency in the table, nothing is ranked."
    sign = 1 if table.metric.is_loss else -1
    best = min(found, key=lambda row: sign * _gain(found[row]))
    gain = difference(found[best])
    if sign * _gain(found[best]) >= 0:
        return "Nothing within the budget is better than recency."
    other = found[best].against_recency
    if other is None or not other.excludes_zero:
        return f"Nothing within the budget differs from recency by more than chance; best is {best.label}, {gain}."
    return f"Best within the budget: {best.label}, {gain} against recency."


def _gain(cell: Cell) -> float:
    assert cell.against_recency is not None
    return cell.against_recency.value


def _controls(cells: dict[str, Cell], gists: Sequence[Contender]) -> str:
    judged = [row for row in gists if cells[row.name].is_beyond_controls is not None]
    if not judged:
        return "No control of the gists was run: what they gain may be what wrong gists gain, too."
    beyond = [row.label for row in judged if cells[row.name].is_beyond_controls]
    if not beyond:
        return "No gists can be told from their controls: what they gain, wrong gists may gain, too."
    return f"More than all of their controls say: {', '.join(beyond)}."
