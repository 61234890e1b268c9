"""``megacontext demo``."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import Annotated

import typer

from megacontext.cli.options import BudgetOption, JsonOption
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.values import whole_number

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where table, picture and memory go.")] = Path(
        "demo-output"
    ),
    num_tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Length of the history.")] = 1_100_000,
    num_facts: Annotated[int, typer.Option("--facts", metavar="N", help="Facts to hide and ask for.")] = 60,
    num_continuations: Annotated[
        int, typer.Option("--continuations", metavar="N", help="Held-out texts to score.")
    ] = 40,
    budget: BudgetOption = 1024,
    base: Annotated[
        str,
        typer.Option(
            "--base", metavar="BASE", help="reference (reference-core), reference-plain, a model folder, or an id."
        ),
    ] = "reference",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of texts, facts and places.")] = 0,
    json: JsonOption = False,
) -> None:
    """Hide facts in a million tokens of real text, ask for them through a small window, and compare with other ways.

    Ends with a table and a picture. Nothing is downloaded.
    """
    from megacontext.evaluation.demo import LEAST_TOKENS, DemoConfig, run_demo
    from megacontext.evaluation.outputs import RESULTS

    for option, value, least in (("--tokens", num_tokens, LEAST_TOKENS), ("--facts", num_facts, 1)):
        whole_number(option, value, least=least)
    whole_number("--continuations", num_continuations, least=0)
    config = DemoConfig(
        out=out,
        num_tokens=num_tokens,
        num_facts=num_facts,
        num_continuations=num_continuations,
        budget_entries=budget,
        base=base,
        seed=seed,
    )
    run_demo(config, console=error_console() if json else output_console(), progress=error_console())
    if json:
        print_json(loads((out / RESULTS).read_text(encoding="utf-8")))
