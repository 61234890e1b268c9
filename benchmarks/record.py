"""What every benchmark does with its figures: a table for the eye, a JSON file for the next comparison.

A benchmark is one file with one command, ``python benchmarks/NAME.py --out benchmarks/results``, that ends with
``record("NAME", rows, out)``. Rows made by `row` that carry a target are collected by ``run_all.py`` into one summary.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from megacontext.bases.registry import DTYPES
from megacontext.evaluation.stamp import stamp

__all__ = ["RESULTS", "SKIPPED", "parser", "record", "row", "skip", "summary_table"]

SKIPPED = 77  # exit code of a benchmark that cannot run here, as test harnesses have it
RESULTS = Path(__file__).resolve().parent / "results"


def row(
    what: str,
    value: float,
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    **details: object,
) -> dict[str, object]:
    """One figure.

    Args:
        what: the quantity in words, as the table shows it.
        value: the measured figure.
        unit: its unit (``ms``, ``tokens/s``, ``x`` for a ratio, ``share``).
        at_most, at_least: the target, if this figure has one; ``reached`` says whether it is met.
        details: anything that helps to judge the figure (repeats, standard error, both sides of a ratio).

    >>> row("append at 4 M / at 4 k", 1.04, "x", at_most=1.1)["reached"]
    True
    """
    figure: dict[str, object] = {"what": what, "value": value, "unit": unit, **details}
    if at_most is not None:
        figure |= {"target": f"<= {at_most:g} {unit}", "reached": math.isfinite(value) and value <= at_most}
    if at_least is not None:
        figure |= {"target": f">= {at_least:g} {unit}", "reached": math.isfinite(value) and value >= at_least}
    return figure


def record(name: str, rows: Sequence[Mapping[str, object]], out_dir: Path) -> Path:
    """Print the rows as a table and write ``out_dir/NAME.json`` with date, machine and commit; returns that path.

    Rows may say of which ``base`` they are. Those of bases that were not measured this time stay, with the date and
    the commit of their own: not every machine has every base.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / f"{name}.json"
    rows = [*rows, *_rows_of_other_bases(path, {figure.get("base") for figure in rows})]
    content = {"benchmark": name, **stamp(), "rows": [dict(figure) for figure in rows]}
    path.write_text(json.dumps(content, indent=2, default=float) + "\n", encoding="utf-8")
    console = Console()
    console.print(summary_table(name, rows))
    console.print(f"written to {path}", style="dim")
    return path


def _rows_of_other_bases(path: Path, measured: set[object]) -> list[dict[str, object]]:
    """Rows of an earlier result, with when and at which commit they were measured."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    made = {key: earlier[key] for key in ("date", "commit")}
    return [made | figure for figure in earlier["rows"] if "base" in figure and figure["base"] not in measured]


def skip(why: str) -> NoReturn:
    """End a benchmark that cannot run here, with a word why; not a missed target."""
    Console().print(f"skipped: {why}", markup=False)
    sys.exit(SKIPPED)


def summary_table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """A table of figures; further details of a row stand in its last column."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("target")
    table.add_column("reached")
    table.add_column("details", style="dim")
    known = ("what", "value", "unit", "target", "reached")
    for figure in rows:
        reached = figure.get("reached")
        table.add_row(
            str(figure["what"]),
            f"{_number(figure['value'])} {figure.get('unit', '')}".strip(),
            str(figure.get("target", "")),
            "" if reached is None else "[green]reached[/]" if reached else "[red]missed[/]",
            ", ".join(f"{key} {_number(value)}" for key, value in figure.items() if key not in known),
        )
    return table


def parser(description: str, *, asks_dtype: bool = False) -> argparse.ArgumentParser:
    """The arguments every benchmark has: ``--out``; ``--dtype`` where the figures depend on a model's precision."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the JSON results (default: %(default)s)"
    )
    if asks_dtype:
        arguments.add_argument(
            "--dtype", choices=DTYPES, default="auto", help="precision of the model (default: %(default)s, as stored)"
        )
    return arguments


def _number(value: object) -> str:
    """Four digits for figures, thousands separated; everything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
