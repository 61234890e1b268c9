"""Arguments and options that several verbs share, described once."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import typer

from megacontext.errors import InvalidValueError

__all__ = [
    "AllocatorOption",
    "BudgetOption",
    "GisterOption",
    "JsonOption",
    "LensOption",
    "MaxNewTokensOption",
    "MemoryArgument",
    "SeedOption",
    "Span",
    "SpanArgument",
    "SuitedBudgetOption",
    "TemperatureOption",
    "TopPOption",
    "parse_labels",
    "parse_lens",
    "parse_span",
]


class Span(NamedTuple):
    """A token range ``[start, stop)``."""

    start: int
    stop: int


def parse_span(text: str) -> Span:
    """``1,024:2048`` -> Span(1024, 2048)."""
    first, colon, last = text.replace(",", "").replace("_", "").partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal() or int(first) >= int(last):
        raise typer.BadParameter(
            f"{text!r} is not a token range; write START:STOP with START < STOP, such as 1024:2048"
        )
    return Span(int(first), int(last))


def parse_lens(name: str) -> str:
    """The name of a lens that can serve a question."""
    from megacontext.focus.lenses.registry import serving_lens

    try:
        return serving_lens(name)
    except InvalidValueError as error:
        raise typer.BadParameter(str(error)) from error


def parse_labels(labels: list[str]) -> dict[str, str]:
    """``["team=infra"]`` -> ``{"team": "infra"}``."""
    parsed: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"{label!r} is not a label; write KEY=VALUE, such as team=infra")
        if parsed.setdefault(key.strip(), value) != value:
            raise typer.BadParameter(
                f"{key.strip()} is labelled twice, {parsed[key.strip()]!r} and {value!r}; give one of them"
            )
    return parsed


MemoryArgument = Annotated[str, typer.Argument(metavar="MEMORY", help="Folder of the memory.", show_default=False)]
SpanArgument = Annotated[
    Span, typer.Argument(metavar="A:B", parser=parse_span, help="Token range, B not included.", show_default=False)
]
BudgetOption = Annotated[
    int, typer.Option("--budget", metavar="N", help="Entries in the window: history, question and answer together.")
]
SuitedBudgetOption = Annotated[
    int | None,
    typer.Option(
        "--budget",
        metavar="N",
        help="Entries in the window: history, question and answer together; by default what suits the base, else 1024.",
        show_default=False,
    ),
]
LensOption = Annotated[
    str, typer.Option("--lens", metavar="NAME", parser=parse_lens, help="What decides where detail goes.")
]
AllocatorOption = Annotated[str, typer.Option("--allocator", metavar="NAME", help="What fits detail into the budget.")]
GisterOption = Annotated[
    str | None,
    typer.Option(
        "--gister", metavar="NAME", help="Refuse a memory whose gists another gister made.", show_default=False
    ),
]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest answer, in tokens.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token.")]
TopPOption = Annotated[
    float, typer.Option("--top-p", metavar="P", help="Draw among the likeliest tokens of this share.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Makes sampling repeatable.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
