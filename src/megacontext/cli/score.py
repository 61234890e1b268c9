"""``megacontext score``."""

from __future__ import annotations

import codecs
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megacontext.cli.opening import open_for_questions
from megacontext.cli.options import JsonOption, LensOption, MemoryArgument, SuitedBudgetOption
from megacontext.cli.piped import open_input
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.tables import print_table
from megacontext.errors import EmptySourceError, NotTextError, UnreadableSourceError
from megacontext.values import whole_number

if TYPE_CHECKING:
    from megacontext.evaluation.methods.method import Method, TokenIds
    from megacontext.runtime.opened import OpenedMemory

__all__ = ["score"]

MOST_BYTES_PER_TOKEN = 64  # more than a token of text has; white space that is one token may be longer


def score(
    memory: MemoryArgument,
    text: Annotated[
        str, typer.Option("--text", metavar="FILE", help="The continuation; - is standard input.", show_default=False)
    ],
    budget: SuitedBudgetOption = None,
    lens: LensOption = "auto",
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Score its first N tokens.")] = 256,
    json: JsonOption = False,
) -> None:
    """Score a continuation of the history, at a budget, against recency and full context.

    Lower is better: nats per token, and bits per byte of text. No method looks at the continuation before it is scored.
    """
    whole_number("--max-tokens", max_tokens, least=1)
    continuation = _read(text, most_bytes=MOST_BYTES_PER_TOKEN * max_tokens)
    with open_for_questions(memory) as opened, error_console().status("[dim]scoring[/dim]"):
        if not opened.num_tokens:
            raise EmptySourceError(f"{memory} has no tokens, so nothing can go on from it; ingest something first")
        token_ids = opened.codec.encode(continuation).token_ids[:max_tokens]
        num_bytes = len(opened.codec.decode(token_ids).encode())
        results = [
            _result(method, token_ids, num_bytes)
            for method in _methods(opened, budget, lens, num_tokens=len(token_ids))
        ]
        num_history = opened.num_tokens
    if json:
        print_json({"num_tokens": len(token_ids), "num_history_tokens": num_history, "methods": results})
        return
    rows = [
        (
            str(result["label"]),
            f"{result['window_entries']:,}",
            f"{result['nats_per_token']:.3f}",
            f"{result['bits_per_byte']:.3f}",
        )
        for result in results
    ]
    out = output_console()
    is_cut = len(token_ids) == max_tokens
    what = f"{'the first ' if is_cut else ''}{len(token_ids):,} tokens after a history of {num_history:,}"
    out.print(what + (" (--max-tokens takes more)" if is_cut else ""))
    columns = ["method", "window", "nats per token", "bits per byte"]
    print_table(out, columns, rows, right=columns[1:])
    if all(result["name"] != "full" for result in results):
        out.print("full context: does not fit into the base's positions", style="dim")


def _read(text: str, *, most_bytes: int) -> str:
    """The beginning of a file: what is scored is its first tokens."""
    name = "standard input" if text == "-" else text
    try:
        if text == "-":
            raw = open_input("give --text a file").buffer.read(most_bytes)
        else:
            with Path(text).open("rb") as file:
                raw = file.read(most_bytes)
        content = codecs.getincrementaldecoder("utf-8")().decode(raw, final=len(raw) < most_bytes)
    except UnicodeDecodeError as error:
        raise NotTextError(f"{name} is not UTF-8 text (byte {error.start}); score a text file") from error
    except OSError as error:
        raise UnreadableSourceError(
            f"{name} cannot be read ({error.strerror}); check its name and permissions"
        ) from error
    if not content.strip():
        raise EmptySourceError(f"{name} has no text; there is nothing to score")
    return content


def _methods(opened: OpenedMemory, budget: int | None, lens: str, *, num_tokens: int) -> list[Method]:
    """The window that ``ask`` would show, and what it is compared with."""
    from megacontext.evaluation.methods.focused import FocusedMemory, WindowShape
    from megacontext.evaluation.methods.plain import FullContext, Recency
    from megacontext.runtime.config import SessionConfig, SessionDefaults

    suited = SessionDefaults.of(opened.base, budget_entries=budget, sink_tokens=None)
    shape = WindowShape(lens=lens, recent_tokens=SessionConfig.recent_tokens, sink_tokens=suited.sink_tokens)
    base = opened.base.load()
    methods: list[Method] = [
        FocusedMemory(opened, base, budget_entries=suited.budget_entries, shape=shape),
        Recency(opened, base, budget_entries=suited.budget_entries),
    ]
    if opened.num_tokens + num_tokens <= base.info.max_positions:
        methods.append(FullContext(opened, base, budget_entries=suited.budget_entries))
    return methods


def _result(method: Method, token_ids: TokenIds, num_bytes: int) -> dict[str, str | int | float]:
    total_nats = float(method.nll(token_ids).sum())
    method.close()
    is_full = method.name == "full"
    return {
        "name": method.name,
        "label": method.label,
        "window_entries": method.memory.num_tokens + len(token_ids) if is_full else method.budget_entries,
        "nats_per_token": total_nats / len(token_ids),
        "bits_per_byte": total_nats / log(2) / num_bytes,
    }
