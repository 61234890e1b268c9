"""``megacontext search``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument
from megacontext.cli.screen import output_console, print_json, quote, shorten_uri
from megacontext.cli.tables import print_table
from megacontext.values import whole_number

__all__ = ["search"]


def search(
    memory: MemoryArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Any words.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Most matches to show.")] = 10,
    json: JsonOption = False,
) -> None:
    """Find spans and sources that share words with TEXT, best first."""
    whole_number("--limit", limit, least=1)
    with open_memory(memory) as opened:
        results = opened.search(text, limit=limit)
    if json:
        print_json(results)
        return
    out = output_console()
    if not results:
        out.print("nothing matches")
        return
    rows = [
        (
            f"{result.score:.1f}",
            Text(shorten_uri(result.uri), style="cyan"),
            f"{result.token_start:,}:{result.token_stop:,}",
            quote(result.text, about=text),
        )
        for result in results
    ]
    print_table(out, ["score", "source", "tokens", "text"], rows, right=["score", "tokens"], title="source")
