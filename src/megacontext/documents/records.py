"""Records of text to train on or to measure with: xz-compressed JSON lines, read one by one.

The files come from elsewhere: downloads stop half-way, and scripts write lines that are no records. Whatever is wrong
is said in one line that names the file and, where there is one, the line in it.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.values import shown, text

__all__ = ["Record", "read_records", "text_field"]

T = TypeVar("T")

Record = Mapping[str, Any]


def read_records(path: Path, make: Callable[[Record], T]) -> Iterator[T]:
    """Yield what ``make`` makes of each record; empty lines are none.

    Raises InvalidValueError if the file is not there or a line is not what it should be, CorruptionError if the file is
    no whole xz file.
    """
    if not path.is_file():
        raise InvalidValueError(f"{path} does not exist; give the folder that holds {path.parent.name}/{path.name}")
    number = 0
    try:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _made(line, make, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"{path} is not UTF-8 after line {number} ({error.reason}); write it as UTF-8"
        ) from error
    except (lzma.LZMAError, EOFError) as error:
        where = f"cut off or damaged after line {number}" if number else "no whole xz file"
        raise CorruptionError(
            f"{path} is {where} ({error}); take another copy, or compress it again with xz"
        ) from error


def text_field(record: Record, key: str) -> str:
    """The text that a record has under a key; raises InvalidValueError if there is none."""
    if key not in record:
        raise InvalidValueError(f"the record has no {key!r}; give it one, or leave the line out")
    return text(repr(key), record[key])


def _made(line: str, make: Callable[[Record], T], where: str) -> T:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{where} is no JSON ({error}); correct it, or leave the line out") from error
    if not isinstance(record, Mapping):
        raise InvalidValueError(f"{where} is {shown(record)}; write an object, {{...}}, or leave the line out")
    try:
        return make(record)
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InvalidValueError(
            f"{where} is no record of this kind ({said}); correct it, or leave the line out"
        ) from error
