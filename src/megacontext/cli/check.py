"""``megacontext check``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.tables import print_table
from megacontext.cli.visible import visible_line
from megacontext.units import format_bytes

if TYPE_CHECKING:
    from megacontext.ports.catalog import Damage

__all__ = ["check"]


def check(
    memory: MemoryArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild what the raw sources can rebuild, remove what nothing refers to.")
    ] = False,
    recompute_gists: Annotated[
        bool, typer.Option("--recompute-gists", help="Also compare every gist with a fresh one; slow.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Verify every byte that holds something; exit code 1 if damage remains."""
    with open_memory(memory, read_only=not repair) as opened, error_console().status("[dim]checking[/dim]"):
        report = opened.check(repair=repair, recompute_gists=recompute_gists)
    if json:
        print_json({"ok": report.ok, **{name: getattr(report, name) for name in report.__dataclass_fields__}})
    else:
        out = output_console()
        if report.repaired:
            out.print(f"repaired {len(report.repaired)}:", style="green")
            _print_damages(out, report.repaired)
        if report.damages:
            out.print(f"damaged {len(report.damages)}:", style="red")
            _print_damages(out, report.damages)
            if not repair and any(damage.repairable for damage in report.damages):
                out.print(
                    f"megacontext check {visible_line(shlex.quote(memory))} --repair rebuilds what can be rebuilt",
                    markup=False,
                    soft_wrap=True,
                )
        else:
            out.print(
                f"all good: {report.num_objects:,} objects, {report.num_tokens:,} tokens in {report.seconds:.1f} s"
            )
        if report.removed_bytes:
            out.print(f"removed {format_bytes(report.removed_bytes)} that nothing referred to")
        if report.unused_bytes:
            out.print(
                f"{format_bytes(report.unused_bytes)} are of an ingest that was interrupted, or goes on; in the first "
                f"case megacontext check {visible_line(shlex.quote(memory))} --repair removes them",
                markup=False,
                soft_wrap=True,
            )
    if not report.ok:
        raise typer.Exit(1)


def _print_damages(out: Console, damages: Sequence[Damage]) -> None:
    rows = [
        (
            Text(visible_line(damage.object_name), style="cyan"),
            f"{damage.token_start:,}:{damage.token_stop:,}",
            f"can be rebuilt from {damage.repairable}" if damage.repairable else "cannot be rebuilt",
            damage.problem.removeprefix(damage.object_name).strip(),
        )
        for damage in damages
    ]
    print_table(out, ["object", "tokens", "repair", "problem"], rows, right=["tokens"])
