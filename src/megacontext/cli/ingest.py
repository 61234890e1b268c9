"""``megacontext ingest``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument, parse_labels
from megacontext.cli.pace import Pace, clock
from megacontext.cli.piped import spooled_input
from megacontext.cli.screen import counted, error_console, output_console, print_json, shorten_uri
from megacontext.cli.visible import visible_line
from megacontext.units import format_bytes, format_count

if TYPE_CHECKING:
    from megacontext.memory.reports import IngestProgress, IngestReport

__all__ = ["ingest", "ingest_progress"]

STANDARD_INPUT = "-"
MAX_NAMED_FAILURES = 10
BAR_WIDTH = 12


def ingest(
    memory: MemoryArgument,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files and folders; - is standard input.", show_default=False)
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="Label of every source; repeat for more.", show_default=False
        ),
    ] = None,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="Who speaks, such as user.", show_default=False)
    ] = "",
    author: Annotated[str, typer.Option("--author", metavar="NAME", help="Who wrote it.", show_default=False)] = "",
    licence: Annotated[
        str, typer.Option("--licence", metavar="ID", help="Under which terms.", show_default=False)
    ] = "",
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Source name of standard input: stdin.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Add files, folders (respecting .gitignore) or standard input.

    A source that is there unchanged is skipped; a changed one becomes a new version.
    """
    labels = parse_labels(label or [])
    if STANDARD_INPUT in paths and len(paths) > 1:
        raise typer.BadParameter("- reads standard input and stands alone; ingest the files with a second command")
    if name is not None and paths != [STANDARD_INPUT]:
        raise typer.BadParameter("--name names standard input (-); files are named by their paths")
    with open_memory(memory, read_only=False) as opened, _says_what_is_in():
        add = partial(opened.ingest, labels=labels, role=role, author=author, licence=licence)
        if paths == [STANDARD_INPUT]:
            with spooled_input(memory) as text, ingest_progress() as progress:
                report = add(text=text, source="stdin" if name is None else name, progress=progress)
        else:
            with ingest_progress() as progress:
                report = add(paths, progress=progress)
    if json:
        print_json(report)
    else:
        _print(report)


@contextmanager
def _says_what_is_in() -> Iterator[None]:
    """Ctrl-C leaves a question: what is in the memory now?"""
    try:
        yield
    except KeyboardInterrupt:
        error_console().print("interrupted: sources that were finished are in, the one in progress is not")
        raise


@contextmanager
def ingest_progress() -> Iterator[Callable[[IngestProgress], None]]:
    """A bar on standard error, on terminals only; what is to be told how far it is."""
    console = error_console()
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a narrow terminal cuts the line, not the bar
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=BAR_WIDTH, table_column=Column(width=BAR_WIDTH)),
        TextColumn("{task.fields[share]}", markup=False, table_column=Column(width=len("100 %"), justify="right")),
        TextColumn("{task.fields[line]}", markup=False, table_column=rest),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal, expand=True) as bar:
        task = bar.add_task("ingest", total=None, share="", line="looking for what is new")
        pace = Pace()

        def show(progress: IngestProgress) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            pace.see(progress, elapsed)
            done, of = _done(progress)
            share = "" if of is None else f"{100 * done // max(of, 1)} %"
            bar.update(task, completed=done, total=of, share=share, line=_line(progress, elapsed, pace.seconds_left))

        yield show


def _done(progress: IngestProgress) -> tuple[int, int | None]:
    """How far the bar is, and of how much: bytes while sources are read, None while nobody knows how many there are,
    then tokens while gists are made."""
    if not progress.is_found:
        return progress.num_bytes, None
    if not _is_read(progress):
        return progress.num_bytes, progress.found_bytes
    return progress.num_gist_tokens, progress.num_tokens


def _is_read(progress: IngestProgress) -> bool:
    """Whether all sources are in, so that only gists are still to be made."""
    return progress.is_found and progress.num_bytes >= progress.found_bytes


def _line(progress: IngestProgress, elapsed: float, seconds_left: float | None) -> str:
    """How long it still takes, tokens, speed, how much is read, how long it took, and the source: what matters most
    comes first, since a narrow terminal cuts the rest off."""
    left = "" if seconds_left is None else f"{clock(seconds_left)} left, "
    tokens = format_count(progress.num_tokens)
    if _is_read(progress):
        made = format_count(progress.num_gist_tokens)
        return f"{left}making gists: {made} of {tokens} tokens have theirs, {clock(elapsed)}"
    speed = format_count(int(progress.num_tokens / max(elapsed, 1e-3)))
    found = format_bytes(progress.found_bytes)
    read = f"{format_bytes(progress.num_bytes)} of {found if progress.is_found else f'{found} found so far'}"
    return f"{left}{tokens} tokens, {speed} a second, {read}, {clock(elapsed)}: {shorten_uri(progress.uri)}"


def _print(report: IngestReport) -> None:
    out, errors = output_console(), error_console()
    added = f"{counted(report.num_sources, 'source')}, {counted(report.num_tokens, 'token')}"
    out.print(f"added {added} in {report.seconds:.1f} s", soft_wrap=True)
    skipped = (
        (report.num_unchanged, "unchanged"),
        (report.num_binary, "binary"),
        (len(report.failures), "not readable"),
    )
    if report.num_skipped:
        out.print("skipped " + ", ".join(f"{count:,} {kind}" for count, kind in skipped if count), soft_wrap=True)
    for failure in report.failures[:MAX_NAMED_FAILURES]:
        errors.print(f"  {visible_line(failure.reason)}", markup=False, soft_wrap=True)
    if len(report.failures) > MAX_NAMED_FAILURES:
        errors.print(f"  and {len(report.failures) - MAX_NAMED_FAILURES:,} more; --json lists all", soft_wrap=True)
    if report.deferred:
        errors.print(f"gists are computed later: {visible_line(report.deferred)}", markup=False, soft_wrap=True)
