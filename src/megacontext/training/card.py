"""Model cards: Markdown whose figures stand between two markers and are rewritten from JSON, never by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from megacontext.errors import BaseModelError, CorruptionError, InvalidValueError

__all__ = [
    "END",
    "begin",
    "no_numbers",
    "percent",
    "read_figures",
    "rewrite_figures",
    "table",
    "tables_of",
    "write_figures",
]

T = TypeVar("T")

END = "<!-- figures: end -->"
TO_SAY = "To be said here: what it is for, what it was trained on, under which licence it may be used, where it fails."


def begin(writer: str) -> str:
    """The first marker. writer: the program that fills in what follows."""
    return f"<!-- figures: begin (written by {writer}) -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: Mapping[str, Any]) -> str:
    """A share with its standard error and the number of questions, which may be none."""
    if share["accuracy"] is None:
        return f"- (n = {share['n']})"
    return f"{100 * share['accuracy']:.1f} ± {100 * share['standard_error']:.1f} % (n = {share['n']})"


def read_figures(path: Path, *, parts: Sequence[str] = (), measure: str) -> dict[str, Any]:
    """The JSON that a measurement left. parts: what it must hold; measure: the command that leaves it, for messages.

    Raises InvalidValueError if it is not there or lacks a part, CorruptionError if it is no JSON object.
    """
    if not path.is_file():
        raise InvalidValueError(f"{path} does not exist; run `{measure}` first")
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptionError(f"{path} is no JSON ({error}); remove it and run `{measure}`") from error
    if not isinstance(figures, dict):
        raise CorruptionError(f"{path} holds no figures; remove it and run `{measure}`")
    missing = [part for part in parts if part not in figures]
    if missing:
        raise InvalidValueError(f"{path} lacks {', '.join(missing)}; run `{measure}` for all parts")
    return figures


def no_numbers(figures: object, at: str = "") -> Iterator[str]:
    """Where among figures one stands that is NaN or infinite, and what it is: ``plain/recall/codes is nan``."""
    if isinstance(figures, float) and not isfinite(figures):
        yield f"{at} is {figures}"
    parts = figures.items() if isinstance(figures, Mapping) else enumerate(figures) if isinstance(figures, list) else ()
    for name, part in parts:
        yield from no_numbers(part, f"{at}/{name}" if at else str(name))


def write_figures(path: Path, figures: Mapping[str, Any], *, of: str) -> None:
    """Write what was measured as JSON. of: whose figures they are, for messages.

    Raises BaseModelError naming the first that is no number, which JSON has no word for; nothing is written then.
    """
    if said := next(no_numbers(figures), None):
        raise BaseModelError(
            f"{of} gives figures that are no numbers ({said}), as weights do that are none or overflow; {path} is as "
            "it was: take another model"
        )
    path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def tables_of(
    path: Path,
    lay_out: Callable[[dict[str, Any]], T],
    figures: dict[str, Any],
    *,
    reader: str = "the card",
    fix: str = "measure again",
) -> T:
    """What ``lay_out`` makes of the figures of a file; InvalidValueError where they are not those that it knows, or one
    is no number. reader, fix: who needs them and what helps, for messages."""
    if said := next(no_numbers(figures), None):
        raise InvalidValueError(f"{path}: {said}, which is no figure for {reader}; {fix}")
    try:
        return lay_out(figures)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        said = f"{type(error).__name__}: {error}"
        raise InvalidValueError(f"{path} is not laid out as {reader} needs it ({said}); {fix}") from error


def rewrite_figures(card: Path, figures: str, *, writer: str) -> None:
    """Put Markdown between the markers of a card, which is begun if there is none; InvalidValueError if it has none, or
    not in this order, or is not UTF-8."""
    first = begin(writer)
    text = f"# {card.absolute().parent.name}\n\n{TO_SAY}\n\n{first}\n{END}\n"
    if card.exists():
        try:
            text = card.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidValueError(f"{card} is not UTF-8 ({error}); save it as UTF-8") from error
    if first not in text or END not in text:
        raise InvalidValueError(f"{card}: the markers are missing; put {first!r} and {END!r} where the tables belong")
    block = f"{first}\n\n{figures}\n\n{END}"
    pattern = re.escape(first) + ".*?" + re.escape(END)
    rewritten, num_found = re.subn(pattern, lambda _: block, text, flags=re.DOTALL)
    if not num_found:
        raise InvalidValueError(f"{card}: {END!r} stands before {first!r}; put it behind, where the tables end")
    card.write_text(rewritten, encoding="utf-8")
