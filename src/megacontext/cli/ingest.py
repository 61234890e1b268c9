"""``megacontext ingest``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument, parse_labels
from megacontext.cli.screen import error_console, output_console, print_json, shorten_uri
from megacontext.units import format_count

__all__ = ["ingest"]

STANDARD_INPUT = "-"
MAX_NAMED_FAILURES = 10


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
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Source name of standard input.")] = "stdin",
    json: JsonOption = False,
) -> None:
    """Add files, folders (respecting .gitignore) or standard input.

    A source that is there unchanged is skipped; a changed one becomes a new version.
    """
    labels = parse_labels(label or [])
    if STANDARD_INPUT in paths and len(paths) > 1:
        raise typer.BadParameter("- reads standard input and stands alone; ingest the files with a second command")
    text = _read_input() if paths == [STANDARD_INPUT] else None
    described = {"labels": labels, "role": role, "author": author, "licence": licence}
    console = error_console()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[tokens]} tokens"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[uri]}"),
    )
    with (
        open_memory(memory, read_only=False) as opened,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("ingest", total=None, tokens="0", uri="")

        def advance(num_tokens: int, uri: str) -> None:
            progress.update(task, tokens=format_count(num_tokens), uri=shorten_uri(uri))

        if text is not None:
            report = opened.ingest(text=text, source=name, progress=advance, **described)  # type: ignore[arg-type]
        else:
            report = opened.ingest(paths, progress=advance, **described)  # type: ignore[arg-type]
    if json:
        print_json(report)
        return
    out = output_console()
    out.print(
        f"added {report.num_sources:,} sources, {report.num_tokens:,} tokens in {report.seconds:.1f} s", soft_wrap=True
    )
    skipped = [
        f"{count:,} {kind}"
        for count, kind in (
            (report.num_unchanged, "unchanged"),
            (report.num_binary, "binary"),
            (len(report.failures), "not readable"),
        )
        if count
    ]
    if skipped:
        out.print(f"skipped {', '.join(skipped)}", soft_wrap=True)
    for failure in report.failures[:MAX_NAMED_FAILURES]:
        console.print(f"  {failure.reason}", markup=False, soft_wrap=True)
    if len(report.failures) > MAX_NAMED_FAILURES:
        console.print(f"  and {len(report.failures) - MAX_NAMED_FAILURES:,} more; --json lists all", soft_wrap=True)
    if report.deferred:
        console.print(f"gists are computed later: {report.deferred}", markup=False, soft_wrap=True)


def _read_input() -> str:
    from megacontext.errors import NotTextError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotTextError(
            f"standard input is not UTF-8 text (byte {error.start}); convert it, or ingest the file by its name"
        ) from error
