"""Streams an answer to the terminal, then says what it rests on; shared by ask, chat and complete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.text import Text

from megacontext.cli.screen import error_console, output_console, place_of, quote
from megacontext.cli.tables import print_table
from megacontext.cli.visible import visible_line, visible_text

if TYPE_CHECKING:
    from rich.status import Status

    from megacontext.runtime.events import ExplainedSpan, GenerationEvent

__all__ = ["Answer", "print_explained", "stream_answer"]


@dataclass(frozen=True)
class Answer:
    """What was generated, why it ended, and what the window lacked meanwhile."""

    text: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()


def stream_answer(events: Iterator[GenerationEvent], *, show: bool, strip: bool, prompt: str = "") -> Answer:
    """Consume the events of one answer. show: print its text as it comes, behind ``prompt``; strip: without the space
    it begins with."""
    from megacontext.runtime.events import DoneEvent, TokenEvent, WarningEvent

    answer = Answer()
    is_first = True
    warnings: list[str] = []
    with _waiting("reading") as status:
        for event in events:
            match event:
                case TokenEvent(text=text):
                    status.stop()
                    if show and prompt:  # not before: what waits clears its line, and a base may fail to load
                        sys.stdout.write(visible_text(prompt))
                        prompt = ""
                    text = text.lstrip() if is_first and strip else text
                    is_first = is_first and not text
                    if show and text:
                        sys.stdout.write(visible_text(text))
                        sys.stdout.flush()
                case WarningEvent(text=text):
                    warnings.append(text)
                    error_console().print(
                        visible_line(text), style="yellow", markup=False, highlight=False, soft_wrap=True
                    )
                case DoneEvent(text=text, reason=reason):
                    answer = Answer(text.strip() if strip else text, reason)
    if show:
        sys.stdout.write(f"{visible_text(prompt)}\n")
        sys.stdout.flush()
    return replace(answer, warnings=tuple(warnings))


def print_explained(spans: list[ExplainedSpan], *, question: str) -> None:
    """The sources behind an answer as a table."""
    out = output_console()
    if not spans:
        out.print("no source was in detail", style="dim")
        return
    out.print()
    rows = [
        (
            Text(place_of(span.uri, span.line_start, span.line_stop), style="cyan"),
            f"{span.token_start:,}:{span.token_stop:,}",
            Text(span.shown_because, style="bold" if span.shown_because == "focus" else "dim"),
            quote(span.quote, about=question),
        )
        for span in spans
    ]
    print_table(out, ["source", "tokens", "because", "says"], rows, right=["tokens"])


def _waiting(what: str) -> Status:
    return error_console().status(f"[dim]{what}[/dim]", spinner="dots")
