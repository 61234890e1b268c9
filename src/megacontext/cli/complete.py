"""``megacontext complete``."""

from __future__ import annotations

from typing import Annotated

import typer

from megacontext.cli.answering import stream_answer
from megacontext.cli.opening import open_for_questions
from megacontext.cli.options import (
    AllocatorOption,
    JsonOption,
    LensOption,
    MaxNewTokensOption,
    MemoryArgument,
    SeedOption,
    SuitedBudgetOption,
    TemperatureOption,
    TopPOption,
)
from megacontext.cli.screen import print_json

__all__ = ["complete"]


def complete(
    memory: MemoryArgument,
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt", metavar="TEXT", help="What to continue; without it, the history itself.", show_default=False
        ),
    ] = "",
    budget: SuitedBudgetOption = None,
    lens: LensOption = "auto",
    allocator: AllocatorOption = "greedy",
    max_new_tokens: MaxNewTokensOption = 64,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> None:
    """Continue a text after the history; prints the prompt and its continuation."""
    with (
        open_for_questions(memory) as opened,
        opened.session(budget_entries=budget, lens=lens, allocator=allocator, seed=seed) as session,
    ):
        events = session.complete(prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        answer = stream_answer(events, show=not json, strip=False, prompt=prompt)
    if json:
        told = {"continuation": answer.text, "reason": answer.reason, "warnings": answer.warnings}
        print_json({"prompt": prompt, **told})
