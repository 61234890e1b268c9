"""Every cell of the matrix is noted, and shown as a table when somebody runs ``pytest -m portability``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from _pytest.terminal import TerminalReporter

CELL = "portability"


@pytest.fixture
def cell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Note a result: ``cell("llama", "bfloat16 sdpa patch", error=0.01)``."""

    def note(row: str, column: str, *, error: float) -> None:
        record_property(CELL, (row, column, error))

    return note


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if "portability" not in (terminalreporter.config.getoption("markexpr") or ""):
        return
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == CELL:
                    row, column, error = value
                    cells[row][column] = f"{error:.0e}" if outcome == "passed" else "FAILED"
    if not cells:
        return
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    terminalreporter.section("portability: error of logits, of their norm, by dtype, kernel and cache")
    width = max(map(len, cells)) + 1
    heads = [column.split() for column in columns]
    for line in range(max(map(len, heads))):
        words = [head[line] if line < len(head) else "" for head in heads]
        terminalreporter.write_line(" " * width + "".join(f"{word[:8]:>9}" for word in words))
    for row in sorted(cells):
        terminalreporter.write_line(f"{row:<{width}}" + "".join(f"{cells[row].get(c, '-'):>9}" for c in columns))
