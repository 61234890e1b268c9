"""``megacontext ask``."""

from __future__ import annotations

from typing import Annotated

import typer

from megacontext.cli.answering import print_explained, stream_answer
from megacontext.cli.opening import open_for_questions
from megacontext.cli.options import (
    AllocatorOption,
    GisterOption,
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
from megacontext.values import whole_number

__all__ = ["ask"]


def ask(
    memory: MemoryArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.", show_default=False)],
    budget: SuitedBudgetOption = None,
    lens: LensOption = "auto",
    allocator: AllocatorOption = "greedy",
    gister: GisterOption = None,
    max_new_tokens: MaxNewTokensOption = 64,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    num_sources: Annotated[int, typer.Option("--sources", metavar="N", help="Blocks to quote; 0 for none.")] = 8,
    json: JsonOption = False,
) -> None:
    """Answer a question, then show the sources that were in detail when it was produced."""
    whole_number("--sources", num_sources, least=0)
    with (
        open_for_questions(memory, gister=gister) as opened,
        opened.session(budget_entries=budget, lens=lens, allocator=allocator, seed=seed) as session,
    ):
        events = session.generate(question, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        answer = stream_answer(events, show=not json, strip=True)
        spans = session.explain(limit=num_sources)
    if json:
        told = {"answer": answer.text, "reason": answer.reason, "warnings": answer.warnings}
        print_json({"question": question, **told, "sources": spans})
    elif num_sources:
        print_explained(spans, question=question)
