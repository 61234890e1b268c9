"""``megacontext inspect``."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import output_console, print_json
from megacontext.cli.visible import visible_line
from megacontext.units import format_bytes

if TYPE_CHECKING:
    from megacontext.memory.reports import MemoryStats

__all__ = ["inspect"]


def inspect(memory: MemoryArgument, json: JsonOption = False) -> None:
    """Show a memory in numbers: tokens, levels, nodes, bytes, base, gister."""
    with open_memory(memory) as opened:
        stats = opened.inspect()
    info = stats.info
    if json:
        print_json({"memory": memory, "num_bytes": stats.num_bytes, "stats": stats})
        return
    per_token = f", {stats.num_bytes / stats.num_tokens:.1f} per token" if stats.num_tokens else ""
    nodes = ", ".join(f"level {level}: {count:,}" for level, count in enumerate(stats.num_nodes) if level)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in (
        ("memory", memory),
        ("tokens", f"{stats.num_tokens:,}{_where(stats)}"),
        ("search", _searched(stats)),
        ("sources", f"{stats.num_sources:,}"),
        ("nodes", nodes or "none yet"),
        ("bytes", f"{format_bytes(stats.num_bytes)}{per_token}"),
        (
            "",
            f"arrays {format_bytes(stats.array_bytes)}, sources {format_bytes(stats.blob_bytes)}, "
            f"catalog {format_bytes(stats.catalog_bytes)}",
        ),
        *_others(memory, stats),
        (
            "base",
            f"{info.base_name} ({info.base_revision}), fingerprint {info.base_fingerprint[:12]}, width {info.dim}",
        ),
        ("gists", f"{info.gister_name} {info.gister_version}, {info.gist_width} per {info.block_tokens} tokens"),
        ("created", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.created_at))),
        *_health(memory, stats),
    ):
        grid.add_row(name, Text(visible_line(value)))
    output_console().print(grid, markup=False)


def _others(memory: str, stats: MemoryStats) -> list[tuple[str, str]]:
    command = shlex.join(["megacontext", "regist", memory])
    said = (
        (stats.older_bytes, f"of what it was before it was moved; `{command} --drop-old` removes that"),
        (stats.coming_bytes, f"of a move that has not ended; `{command}` with the options of then goes on with it"),
    )
    return [("", f"and {format_bytes(num_bytes)} {what}") for num_bytes, what in said if num_bytes]


def _health(memory: str, stats: MemoryStats) -> list[tuple[str, str]]:
    lines = [
        *(stats.health or ("good at first sight",)),
        f"`{shlex.join(['megacontext', 'check', memory])}` verifies every byte",
    ]
    return [("health" if number == 0 else "", line) for number, line in enumerate(lines)]


def _where(stats: MemoryStats) -> str:
    """Complete segments are arrays of their own; what follows waits in the catalog, as safe."""
    tail = stats.num_tokens - stats.sealed_tokens
    return f" ({stats.sealed_tokens:,} in sealed arrays, {tail:,} in the catalog)" if stats.num_tokens else ""


def _searched(stats: MemoryStats) -> str:
    """How searches find the words of the history: the newest have no entries in the index yet and are read through."""
    if not stats.num_tokens:
        return "nothing to find yet"
    newest = stats.num_tokens - stats.indexed_tokens
    ways = [f"{stats.indexed_tokens:,} by their index"] if stats.indexed_tokens else []
    ways += [f"the newest {newest:,} by reading them"] if newest else []
    return f"finds all {stats.num_tokens:,}: {', '.join(ways)}"
