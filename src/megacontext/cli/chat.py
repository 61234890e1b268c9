"""``megacontext chat``."""

from __future__ import annotations

import time

from rich.console import Console

from megacontext.cli.answering import stream_answer
from megacontext.cli.opening import open_memory
from megacontext.cli.options import (
    AllocatorOption,
    LensOption,
    MaxNewTokensOption,
    MemoryArgument,
    SeedOption,
    SuitedBudgetOption,
    TemperatureOption,
    TopPOption,
)
from megacontext.cli.piped import open_input
from megacontext.cli.screen import error_console
from megacontext.errors import NotTextError

__all__ = ["chat"]


def chat(
    memory: MemoryArgument,
    budget: SuitedBudgetOption = None,
    lens: LensOption = "auto",
    allocator: AllocatorOption = "greedy",
    max_new_tokens: MaxNewTokensOption = 128,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
) -> None:
    """Talk; turns become part of the memory. One line is one turn; an empty one, Ctrl-D or Ctrl-C ends the chat."""
    source = time.strftime("chat/%Y-%m-%dT%H:%M:%S")
    console = error_console()
    with (
        open_memory(memory, read_only=False) as opened,
        opened.session(budget_entries=budget, lens=lens, allocator=allocator, seed=seed) as session,
    ):
        opened.store_gists()
        while (turn := _read_turn(console)) is not None:
            events = session.generate(turn, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
            answer = stream_answer(events, show=True, strip=True)
            # the turn enters the memory only when it was answered, so that a question is not its own evidence
            opened.append_text(f"\n{turn}\n", source=source, role="user")
            if answer.text:
                opened.append_text(f"{answer.text}\n", source=source, role="assistant")


def _read_turn(console: Console) -> str | None:
    """The next line, or None when the user is done."""
    lines = open_input("pipe the turns into it, a line each, or run chat in a terminal")
    if lines.isatty():
        console.print("[bold cyan]>[/bold cyan] ", end="")
    try:
        line = lines.readline()
        while line and not line.strip() and not lines.isatty():  # a blank line ends a talk, not a file of turns
            line = lines.readline()
    except KeyboardInterrupt:
        line = ""
    except UnicodeDecodeError as error:
        raise NotTextError(f"standard input is no {error.encoding} text ({error.reason}); convert it first") from error
    if not line.strip():
        if lines.isatty():
            console.print()
        return None
    return line.strip()
