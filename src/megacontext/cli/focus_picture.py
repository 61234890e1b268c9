"""The working context drawn in characters: where in the history the detail is, and what fills the window."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from megacontext.cli.tables import print_table
from megacontext.tree.cuts import entry_costs
from megacontext.units import format_count

if TYPE_CHECKING:
    from megacontext.focus.working_context import WorkingContext

__all__ = ["print_picture", "strip"]

# raw tokens, then levels 1, 2, 3 and above: the coarser, the fainter
GLYPHS = "█▓▒░"
STYLES = ("bright_yellow", "orange3", "magenta", "blue")
MAX_WIDTH = 96


def print_picture(out: Console, wc: WorkingContext, *, budget_entries: int, list_entries: bool) -> None:
    """Two strips, a legend, and every entry if asked for."""
    if not wc.num_entries:
        out.print("the memory is empty")
        return
    width = max(16, min(MAX_WIDTH, out.width - 12))
    costs = entry_costs(wc.cut, wc.gist_width)
    window_edges = np.concatenate([[0], np.cumsum(costs)])
    history_edges = np.concatenate([wc.starts, wc.stops[-1:]])
    out.print(Text().append("history  ", style="dim").append_text(strip(wc.levels, history_edges, width)), no_wrap=True)
    out.print(Text(f"         0{format_count(wc.num_tokens):>{width - 1}}", style="dim"), no_wrap=True)
    out.print(Text().append("window   ", style="dim").append_text(strip(wc.levels, window_edges, width)), no_wrap=True)
    out.print(Text(f"         0{wc.cost:>{width - 1},}", style="dim"), no_wrap=True)
    out.print()
    rows = []
    for level in np.unique(wc.levels).tolist():
        at = wc.levels == level
        rows.append(
            (
                _glyph(level).append(" tokens" if level == 0 else f" level {level}", style="default"),
                f"{int(at.sum()):,}",
                f"{int(costs[at].sum()):,}",
                f"{int((wc.stops - wc.starts)[at].sum()):,}",
            )
        )
    columns = ["", "entries", "in the window", "tokens of the history"]
    print_table(out, columns, rows, right=columns[1:])
    out.print(f"{wc.num_entries:,} entries cost {wc.cost:,} of {budget_entries:,}", style="dim")
    out.print(
        f"pinned, tokens in every window block by block: what --pin names, the first {wc.config.sink_tokens:,} (sink), "
        f"the last {wc.config.recent_tokens:,} (recent)",
        style="dim",
    )
    if list_entries:
        out.print()
        entries = [
            (
                _glyph(level).append(f" {level}", style="default"),
                f"{start:,}:{stop:,}",
                str(cost),
                _why_raw(wc, start, stop) if pinned else "",
            )
            for (level, start, stop), cost, pinned in zip(
                wc.cut.rows(), costs.tolist(), wc.pinned.tolist(), strict=True
            )
        ]
        print_table(out, ["level", "tokens", "cost", ""], entries, right=["tokens", "cost"])


def _why_raw(wc: WorkingContext, start: int, stop: int) -> str:
    """What pins an entry, in the words in which answers name their sources."""
    if any(low < stop and start < high for low, high in wc.pins):
        return "pinned"
    return "sink" if start < wc.config.sink_tokens else "recent"


def strip(levels: npt.NDArray[np.int64], edges: npt.NDArray[np.int64], width: int) -> Text:
    """One character per equal share of ``[0, edges[-1])``: the finest level in it."""
    cells = np.linspace(0, edges[-1], width + 1)
    firsts = np.searchsorted(edges, cells[:-1], side="right") - 1
    lasts = np.maximum(np.searchsorted(edges, cells[1:], side="left"), firsts + 1)
    finest = [int(levels[first:last].min()) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]
    line = Text()
    for level, run in groupby(finest):
        line.append_text(_glyph(level, len(list(run))))
    return line


def _glyph(level: int, count: int = 1) -> Text:
    kind = min(level, len(GLYPHS) - 1)
    return Text().append(GLYPHS[kind] * count, style=STYLES[kind])
