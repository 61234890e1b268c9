"""``megacontext regist``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from megacontext.cli.ingest import ingest_progress
from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import counted, error_console, output_console, print_json
from megacontext.cli.visible import visible_line
from megacontext.units import format_bytes

if TYPE_CHECKING:
    from megacontext.runtime.regist import RegistReport

__all__ = ["regist"]


def regist(
    memory: MemoryArgument,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="ID", help="As for init; by default the memory's own.", show_default=False),
    ] = None,
    block_tokens: Annotated[
        int | None,
        typer.Option(
            "--block-tokens", metavar="K", help="Tokens of a block; by default as they are.", show_default=False
        ),
    ] = None,
    gister: Annotated[
        str | None,
        typer.Option(
            "--gister",
            metavar="NAME",
            help="What summarises blocks; by default the base's own learned gists, else the memory's.",
            show_default=False,
        ),
    ] = None,
    gist_width: Annotated[
        int | None,
        typer.Option(
            "--gist-width", metavar="R", help="Vectors of one summary; by default as they are.", show_default=False
        ),
    ] = None,
    keep_old: Annotated[
        bool | None,
        typer.Option(
            "--keep-old/--drop-old",
            help="What becomes of what the memory was; --drop-old alone removes what was kept.",
            show_default="--drop-old",
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Give up what an earlier run left.")] = False,
    lossy_tokens: Annotated[
        bool, typer.Option("--lossy-tokens", help="Take the text of tokens that are others once they were text.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Move a memory to another base model: tokens and gists again, from the raw sources. Run again after a stop."""
    from megacontext.runtime import regist as runtime

    if keep_old is False and all(option is None for option in (base, block_tokens, gister, gist_width)):
        if restart or lossy_tokens:
            raise typer.BadParameter(
                f"{'--restart' if restart else '--lossy-tokens'} is of a move, and --drop-old alone only removes what "
                "the memory was before; leave one of them out, or name the base to move to"
            )
        freed_bytes, kept = runtime.drop_old(memory)
        _print_dropped(memory, freed_bytes, kept, json)
        return
    with _says_what_is_left(memory), ingest_progress() as progress:
        report = runtime.regist(
            memory,
            base=base,
            gister=gister,
            block_tokens=block_tokens,
            gist_width=gist_width,
            keep_old=keep_old,
            restart=restart,
            lossy_tokens=lossy_tokens,
            progress=progress,
        )
    if json:
        print_json({"memory": memory, "report": report})
    else:
        _print(memory, report)


@contextmanager
def _says_what_is_left(memory: str) -> Iterator[None]:
    from megacontext.runtime.assembly import memory_folder
    from megacontext.storage.generations import current_generation

    before = current_generation(memory_folder(memory))
    try:
        yield
    except KeyboardInterrupt:
        if current_generation(memory_folder(memory)) == before:
            error_console().print("interrupted: the memory is as it was; run the same command again to go on")
        else:
            error_console().print(
                "interrupted: the memory is moved, but not all of what it was before is removed; "
                f"`megacontext regist {shlex.quote(memory)} --drop-old` does that",
                soft_wrap=True,
            )
        raise


def _print(memory: str, report: RegistReport) -> None:
    info, out = report.info, output_console()
    out.print(
        f"moved {visible_line(memory)} to {visible_line(info.base_name)}, {info.gister_name} gists, "
        f"{info.gist_width} per {info.block_tokens} tokens: {counted(report.num_sources, 'source')}, "
        f"{counted(report.num_tokens, 'token')} (before {report.old_num_tokens:,}) in {report.seconds:.1f} s",
        markup=False,
        soft_wrap=True,
    )
    _print_old(memory, report.freed_bytes, report.kept)


def _print_dropped(memory: str, freed_bytes: int, kept: tuple[str, ...], json: bool) -> None:
    if json:
        print_json({"memory": memory, "report": {"freed_bytes": freed_bytes, "kept": kept}})
    elif not freed_bytes and not kept:
        output_console().print("there is nothing to be removed")
    else:
        _print_old(memory, freed_bytes, kept)


def _print_old(memory: str, freed_bytes: int, kept: tuple[str, ...]) -> None:
    out = output_console()
    if freed_bytes:
        out.print(f"removed {format_bytes(freed_bytes)} of what it was before")
    if kept:
        command = shlex.join(["megacontext", "regist", memory, "--drop-old"])
        out.print(
            f"what it was before is still there; `{visible_line(command)}` removes it when nobody reads it",
            markup=False,
            soft_wrap=True,
        )
