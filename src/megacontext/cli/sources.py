"""``megacontext sources`` and ``megacontext provenance``."""

from __future__ import annotations

import time

from rich.text import Text

from megacontext.cli.opening import open_memory
from megacontext.cli.options import JsonOption, MemoryArgument, SpanArgument
from megacontext.cli.screen import output_console, place_of, print_json, shorten_uri
from megacontext.cli.tables import print_table
from megacontext.cli.visible import visible_line, visible_text
from megacontext.units import format_bytes

__all__ = ["provenance", "sources"]


def sources(memory: MemoryArgument, json: JsonOption = False) -> None:
    """List what is in a memory."""
    with open_memory(memory) as opened:
        listed = opened.sources()
    if json:
        print_json(listed)
        return
    out = output_console()
    if not listed:
        out.print("the memory is empty")
        return
    rows = [
        (
            Text(shorten_uri(source.uri), style="cyan"),
            str(source.source_id),
            str(source.version),
            source.kind,
            f"{source.token_start:,}:{source.token_stop:,}",
            format_bytes(source.num_bytes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(source.created_at)),
            " ".join([*filter(None, [source.role]), *(f"{key}={value}" for key, value in source.labels.items())]),
        )
        for source in listed
    ]
    columns = ["source", "id", "version", "kind", "tokens", "size", "added", "role, labels"]
    print_table(out, columns, rows, right=["id", "version", "tokens", "size"])


def provenance(memory: MemoryArgument, span: SpanArgument, json: JsonOption = False) -> None:
    """Show where tokens A to B came from, word for word."""
    with open_memory(memory) as opened:
        quotations = opened.provenance(*span)
    if json:
        print_json(quotations)
        return
    out = output_console()
    for quotation in quotations:
        place = Text(place_of(quotation.uri, quotation.line_start, quotation.line_stop), style="bold cyan")
        place.append(
            f"  tokens {quotation.token_start:,}:{quotation.token_stop:,}"
            f"  bytes {quotation.byte_start:,}:{quotation.byte_stop:,}{'' if quotation.line_start else ' of its text'}"
            f"  version {quotation.version}",
            style="dim",
        )
        details = [quotation.title, quotation.role, quotation.author, quotation.licence]
        details += [f"{key}={value}" for key, value in quotation.labels.items()]
        if any(details):
            place.append(visible_line("  " + ", ".join(filter(None, details))), style="dim")
        out.print(place, soft_wrap=True)
        out.print(Text(visible_text(quotation.text)), soft_wrap=True)
        out.print()
