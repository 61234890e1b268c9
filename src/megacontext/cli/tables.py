"""Tables without lines; where the terminal is too narrow for one, every row is a small paragraph.

Nothing is ever cut: a path with a hole in it can be neither opened nor erased. Numbers and names stand in columns of
their full width, only the last column of text is wrapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megacontext.cli.visible import visible_line

__all__ = ["print_table"]

GAP = 2
LONGEST_FACT = 40  # more is text, with lines of its own
NARROWEST_TEXT = 24  # a last column of text with less room than this is no column


def print_table(
    out: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[str] = (),
    title: str = "",
) -> None:
    """Print rows under their names. Columns in ``right`` are numbers; ``title`` names the column (the first by default)
    that begins the paragraph of a row where there is no room for columns."""
    cells = [[cell if isinstance(cell, Text) else Text(visible_line(cell)) for cell in row] for row in rows]
    if _fits(out.width, columns, cells, is_text=columns[-1] not in right):
        out.print(_table(columns, cells, right))
    else:
        for row in cells:
            _print_paragraph(out, columns, row, right, columns.index(title) if title else 0)


def _fits(width: int, columns: Sequence[str], cells: Sequence[Sequence[Text]], *, is_text: bool) -> bool:
    widths = [
        max(cell_len(name), *(row[number].cell_len for row in cells), 0) + GAP for number, name in enumerate(columns)
    ]
    last = min(widths[-1], NARROWEST_TEXT) if is_text else widths[-1] - GAP
    return sum(widths[:-1]) + last <= width


def _table(columns: Sequence[str], cells: Sequence[Sequence[Text]], right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(
            name, justify="right" if name in right else "left", no_wrap=name != columns[-1], overflow="fold"
        )
    for row in cells:
        table.add_row(*row)
    return table


def _print_paragraph(out: Console, columns: Sequence[str], row: Sequence[Text], right: Sequence[str], at: int) -> None:
    """The title alone, so that it can be copied whole; the rest by name below it, a last column of text at the end."""
    out.print(row[at], soft_wrap=True)
    rest = [number for number in range(len(columns)) if number != at and row[number].plain]
    is_long = columns[-1] not in right and row[-1].cell_len > LONGEST_FACT
    text = [rest.pop()] if rest and rest[-1] == len(columns) - 1 and is_long else []
    facts = [Text().append(f"{columns[number]} ".lstrip(), style="dim").append_text(row[number]) for number in rest]
    width = out.width - GAP
    lines = [*_filled(facts, width), *(line for number in text for line in row[number].wrap(out, width))]
    for line in lines:
        line.rstrip()
        out.print(Text(" " * GAP).append_text(line), soft_wrap=True)


def _filled(facts: Sequence[Text], width: int) -> list[Text]:
    """As few lines as hold the facts, none of them broken."""
    lines: list[Text] = []
    for fact in facts:
        if lines and lines[-1].cell_len + GAP + fact.cell_len <= width:
            lines[-1].append(" " * GAP).append_text(fact)
        else:
            lines.append(fact)
    return lines
