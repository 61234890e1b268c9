"""``megacontext erase``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from megacontext.cli.naming import find_uri
from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import counted, error_console, output_console, print_json, shorten_uri
from megacontext.cli.visible import visible_line

__all__ = ["erase"]


def erase(
    memory: MemoryArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Path, name or id, as `sources` lists it.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Forget every version of a source: bytes, text, words, name and gists. It cannot be undone."""
    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise typer.BadParameter("erasing cannot be undone; add --yes to do it without being asked")
    with open_memory(memory) as reader:
        uri = find_uri(reader, source)
        is_there = any(listed.uri == uri for listed in reader.sources())
    question = f"Forget {shorten_uri(uri)} in {visible_line(memory)} for ever?"
    if not yes and is_there and not typer.confirm(question, err=True):
        error_console().print("nothing was erased")
        raise typer.Exit(1)
    with open_memory(memory, read_only=False) as opened, error_console().status("[dim]erasing[/dim]"):
        report = opened.erase(uri)
    if json:
        print_json(report)
        return
    out = output_console()
    done = f"{counted(report.num_sources, 'version')}, {counted(report.num_tokens, 'token')}"
    out.print(f"erased {shorten_uri(uri)}: {done}", markup=False, soft_wrap=True)
    for uri in report.shared_with:
        out.print(f"{shorten_uri(uri)} has the same content and keeps it; erase it too", markup=False, soft_wrap=True)
