"""``megacontext export`` and ``megacontext import``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import counted, error_console, output_console, print_json
from megacontext.cli.visible import visible_line
from megacontext.units import format_bytes

if TYPE_CHECKING:
    from megacontext.runtime.transfer import TransferReport

__all__ = ["export_memory", "import_memory"]

ArchiveArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Tar archive.", show_default=False)]


def export_memory(memory: MemoryArgument, archive: ArchiveArgument, json: JsonOption = False) -> None:
    """Copy a memory into one file, also while somebody writes to it."""
    _refuse_pipe(archive)
    from megacontext.runtime import transfer

    with _progress("exporting") as progress:
        report = transfer.export_memory(memory, archive, progress=progress)
    _print(report, f"exported {memory} to {archive}", json)


def import_memory(archive: ArchiveArgument, memory: MemoryArgument, json: JsonOption = False) -> None:
    """Make a new memory from an exported file; every byte is verified."""
    _refuse_pipe(archive)
    from megacontext.runtime import transfer

    with _progress("importing") as progress:
        report = transfer.import_memory(archive, memory, progress=progress)
    _print(report, f"imported {archive} to {memory}", json)


def _refuse_pipe(archive: Path) -> None:
    if str(archive) == "-":
        raise typer.BadParameter("- is no file: an archive is read twice to be verified; name one")


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, str], None]]:
    console = error_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda num_bytes, name: bar.update(task, completed=num_bytes, description=f"{doing} {visible_line(name)}")


def _print(report: TransferReport, done: str, json: bool) -> None:
    if json:
        print_json(report)
        return
    output_console().print(
        f"{visible_line(done)}: {counted(report.num_sources, 'source')}, {counted(report.num_tokens, 'token')}, "
        f"{counted(report.num_files, 'file')}, "
        f"{format_bytes(report.num_bytes)}",
        markup=False,
        soft_wrap=True,
    )
