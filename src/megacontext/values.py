"""Values that users give, checked once where they come in.

Each check returns the value as plain Python has it (``np.int64(5)`` comes back as ``5``), or raises one line that names
the value, the limit and what to give instead. What came through needs no second look further in. ``None`` and ``True``
are never numbers here, and 5 is never a flag: whoever writes that meant another argument.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from os import PathLike, fsencode, fspath
from pathlib import Path
from typing import TypeVar

import numpy as np

from megacontext.errors import InvalidValueError, UnknownNameError

__all__ = [
    "LARGEST",
    "choice",
    "file_in_the_way",
    "flag",
    "function",
    "name_of_source",
    "number",
    "part",
    "path",
    "reason_of",
    "seed",
    "shown",
    "span",
    "text",
    "text_labels",
    "texts",
    "whole_number",
]

LARGEST = (1 << 63) - 1  # what the libraries below us can count to
_SHOWN_CHARS = 60
_REASON_CHARS = 200

T = TypeVar("T")


def shown(value: object) -> str:
    """A value on one short line of a message, whatever it is."""
    is_number = isinstance(value, numbers.Number)
    try:
        line = " ".join((str(value) if is_number else repr(value)).split())
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        line = "an enormous number"
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 3]}..."


def reason_of(error: BaseException) -> str:
    """What somebody else's error says, as part of one line of a message; the kind of error where it says nothing."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= _REASON_CHARS else f"{line[: _REASON_CHARS - 3]}..."


# --- numbers ----------------------------------------------------------------------------------------------------------


def whole_number(
    name: str,
    value: object,
    *,
    least: int | None = 0,
    most: int | None = LARGEST,
    of: str = "",
    usual: int | None = None,
    error: type[InvalidValueError] = InvalidValueError,
) -> int:
    """An integer of any library from ``least`` to ``most``. of: what is counted; usual: what to try first.

    >>> whole_number("limit", 5)
    5
    """
    found = _index(value)
    if found is None or (least is not None and found < least) or (most is not None and found > most):
        limits = "" if least is None else f" of at least {least}"
        if least is not None and most not in (None, LARGEST):
            limits = f" from {least} to {most}"
        elif least is not None and found is not None and found >= least:
            limits = f" from {least} to 2**63 - 1"
        what = f"a whole number of {of}" if of else "a whole number"
        hint = "" if usual is None else f"; {usual} is usual"
        raise error(f"{name} is {shown(value)}; choose {what}{limits}{hint}")
    return found


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    error: type[InvalidValueError] = InvalidValueError,
) -> float:
    """A finite number of any library within limits, of which ``above`` and ``below`` are not reached themselves."""
    found = _real(value)
    fits = (
        math.isfinite(found)
        and (least is None or found >= least)
        and (above is None or found > above)
        and (most is None or found <= most)
        and (below is None or found < below)
    )
    if not fits:
        words = (("of at least", least), ("above", above), ("of at most", most), ("below", below))
        limits = " and ".join(f"{word} {limit:g}" for word, limit in words if limit is not None)
        raise error(f"{name} is {shown(value)}; choose a finite number {limits}".rstrip())
    return found


def seed(value: object) -> int | None:
    """What makes sampling repeatable, or None for chance."""
    return None if value is None else whole_number("seed", value)


def span(start: object, stop: object, *, limit: int, of: str, is_empty_fine: bool = True) -> tuple[int, int]:
    """A range ``[start, stop)`` of the ``limit`` things that there are."""
    first, last = _index(start), _index(stop)
    if first is None or last is None:
        name, value = ("start", start) if first is None else ("stop", stop)
        raise InvalidValueError(
            f"{name} is {shown(value)}; choose a whole number from 0 to {limit}, the {of} there are"
        )
    if not 0 <= first <= last <= limit or (first == last and not is_empty_fine):
        relation = "<=" if is_empty_fine else "<"
        raise InvalidValueError(
            f"span [{shown(start)}, {shown(stop)}) is not within the {limit} {of}; "
            f"choose 0 <= start {relation} stop <= {limit}"
        )
    return first, last


def _index(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _real(value: object) -> float:
    """NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


# --- words ------------------------------------------------------------------------------------------------------------


def text(name: str, value: object) -> str:
    """Text that can be stored and compared: a str without lone surrogates."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{name} is {shown(value)}, of type {type(value).__name__}; give a str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{name} has a lone surrogate at character {error.start}; leave it out, "
            "for example with text.encode('utf-8', 'replace').decode()"
        ) from error
    return value


def texts(name: str, value: object) -> tuple[str, ...]:
    """Some texts, none of them empty; () for none."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidValueError(f"{name} is {shown(value)}; give a list of non-empty texts, [] for none")
    given = tuple(text(f"a text in {name}", one) for one in value)
    if "" in given:
        raise InvalidValueError(f"{name} is {shown(value)}; give a list of non-empty texts, [] for none")
    return given


def text_labels(value: object) -> dict[str, str]:
    """Labels: text by text."""
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"labels is {shown(value)}; give a mapping, for example {{'team': 'infra'}}")
    for key, said in value.items():
        if not isinstance(key, str) or not isinstance(said, str):
            raise InvalidValueError(
                f"labels has {shown(key)}={shown(said)}, which is not text; give strings, as in {{'team': 'infra'}}"
            )
        for part_of_it in (key, said):
            text(f"label {shown(key)}", part_of_it)
    return dict(value)


def name_of_source(value: object) -> str:
    """What a source is called: not only white space."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidValueError(f"source is {shown(value)}; give a name, such as notes")
    return text("source", value)


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """One of the known words."""
    names = sorted(known)
    if not isinstance(value, str) or value not in names:
        raise UnknownNameError(f"unknown {name} {shown(value)}; known: {', '.join(names)}")
    return value


# --- other things -----------------------------------------------------------------------------------------------------


def flag(name: str, value: object) -> bool:
    """True or False, Python's or numpy's."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InvalidValueError(f"{name} is {shown(value)}; choose True or False")


def function(name: str, value: T, *, of: str) -> T:
    """Something that can be called with one ``of``, as far as it says what it takes."""
    if callable(value):
        try:
            inspect.signature(value).bind(None)
        except TypeError:
            pass
        except ValueError:  # of C, which does not say
            return value
        else:
            return value
    raise InvalidValueError(f"{name} is {shown(value)}; give a function of one {of}, or None")


def path(name: str, value: object, *, example: str = "notes.mc") -> str:
    """A place as str, from str or ``pathlib.Path``."""
    found = fspath(value) if isinstance(value, str | PathLike) else value
    if not isinstance(found, str):
        raise InvalidValueError(f"{name} is {shown(value)}; give a str or a pathlib.Path, such as {example}")
    try:
        raw = fsencode(found)  # a name that is not UTF-8 came from the system with surrogates that it understands
    except UnicodeEncodeError:
        raw = b""
    if not raw or b"\0" in raw:
        raise InvalidValueError(
            f"{name} is {shown(found) if found else 'empty'}; name a file or folder, such as {example}"
        )
    return found


def file_in_the_way(place: Path) -> Path | None:
    """The file that stands where a folder is to be made, or above that; None if there is none."""
    there = next(one for one in (place, *place.absolute().parents) if one.exists())
    return None if there.is_dir() else there


def part(name: str, value: object, protocol: type[T], known: Iterable[str]) -> T:
    """An object that keeps to a protocol, which is one with ``runtime_checkable``."""
    if isinstance(value, type) or not isinstance(value, protocol):
        raise InvalidValueError(
            f"{name} is {shown(value)}; give a name ({', '.join(known)}) or your own {protocol.__name__}"
        )
    return value
