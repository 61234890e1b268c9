"""Model cards: Markdown whose figures stand between two markers and are rewritten from JSON, never by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.errors import InvalidValueError

__all__ = ["END", "begin", "percent", "rewrite_figures", "table"]

END = "<!-- figures: end -->"


def begin(writer: str) -> str:
    """The first marker. writer: the program that fills in what follows."""
    return f"<!-- figures: begin (written by {writer}) -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: Mapping[str, Any]) -> str:
    """A share with its standard error and the number of questions."""
    return f"{100 * share['accuracy']:.1f} ± {100 * share['standard_error']:.1f} % (n = {share['n']})"


def rewrite_figures(card: Path, figures: str, *, writer: str) -> None:
    """Put Markdown between the markers of a card; raises InvalidValueError if it has none."""
    text = card.read_text()
    first = begin(writer)
    if first not in text or END not in text:
        raise InvalidValueError(f"{card}: the markers are missing; put {first!r} and {END!r} where the tables belong")
    block = f"{first}\n\n{figures}\n\n{END}"
    card.write_text(re.sub(re.escape(first) + ".*?" + re.escape(END), lambda _: block, text, flags=re.DOTALL))
