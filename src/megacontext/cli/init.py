"""``megacontext init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.visible import visible_line

__all__ = ["init"]


def init(
    memory: MemoryArgument,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="ID",
            help="`reference` (bundled), a model folder, a Hugging Face id, or openai:MODEL@URL, vllm:MODEL@URL.",
        ),
    ] = "reference",
    block_tokens: Annotated[
        int | None,
        typer.Option(
            "--block-tokens",
            metavar="K",
            help="Tokens of a block and children of a node, 8 to 128; by default what suits the base, else 32, "
            "fewer where gists are text.",
            show_default=False,
        ),
    ] = None,
    gister: Annotated[
        str | None,
        typer.Option(
            "--gister",
            metavar="NAME",
            help="What summarises blocks; by default what suits the base, its own learned gists, or extractive; "
            "sentences where gists are text.",
            show_default=False,
        ),
    ] = None,
    gist_width: Annotated[
        int | None,
        typer.Option(
            "--gist-width",
            metavar="R",
            help="Vectors of one summary; by default what suits the base, else 1, more where they are text.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="What suits the base, as `port` wrote it; by default megacontext.toml in the model's folder.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create a memory for a base model."""
    from megacontext.gisters.gistnet import LEARNED_GISTER, untaught_shape
    from megacontext.runtime.assembly import create

    with create(
        memory, base=base, gister=gister, block_tokens=block_tokens, gist_width=gist_width, base_config=config
    ) as created:
        info = created.info
        shape = {"block_tokens": info.block_tokens, "gist_width": info.gist_width}
        if info.gister_name == LEARNED_GISTER and (new := untaught_shape(created.base.info, **shape)):
            error_console().print(visible_line(new), style="yellow", markup=False, soft_wrap=True)
    if json:
        print_json({"memory": memory, "info": info})
        return
    output_console().print(
        f"created {visible_line(memory)}: base {visible_line(info.base_name)}, blocks of {info.block_tokens} tokens, "
        f"{info.gister_name} gists",
        markup=False,
        soft_wrap=True,
    )
