"""What may come in: paths and token ids are checked before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import IO

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidTokensError, InvalidValueError
from megacontext.values import path, shown

__all__ = ["given_paths", "size_of_file", "valid_token_ids"]


def given_paths(paths: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[str]:
    """One path or several, as a list of str.

    Raises: InvalidValueError naming what is no path.
    """
    if isinstance(paths, str | PathLike):
        return [path("paths", paths, example="docs/")]
    several: object = paths
    if isinstance(several, bytes | Mapping) or not isinstance(several, Iterable):
        raise InvalidValueError(f"paths is {shown(several)}; give a str, a pathlib.Path, or a list of them")
    return [path("a path", one, example="docs/") for one in several]


def size_of_file(given: IO[bytes]) -> int:
    """Bytes of an open file.

    Raises: InvalidValueError if there is none behind the object, such as one in memory or a closed one.
    """
    try:
        return os.fstat(given.fileno()).st_size
    except (OSError, ValueError) as error:
        raise InvalidValueError(
            f"text is a {type(given).__name__} without an open file ({error}); give a str, or a file on a disk"
        ) from error


def valid_token_ids(token_ids: npt.ArrayLike, vocab_size: int) -> npt.NDArray[np.uint32]:
    """A flat, non-empty sequence of integers in [0, vocab_size) as uint32 [n].

    Raises: InvalidTokensError naming the value, the limit and the fix.
    """
    try:
        given = np.asarray(token_ids)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidTokensError(f"token ids are no array ({error}); give one flat list of integers") from error
    if given.ndim == 0:
        raise InvalidTokensError(f"token ids are {shown(token_ids)}; give one flat list of integers, shape (n,)")
    if given.ndim != 1:
        raise InvalidTokensError(f"token ids have shape {given.shape}; give one flat list, shape (n,)")
    if given.size == 0:
        raise InvalidTokensError("there are no token ids (0); give at least 1")
    mixed_bool = isinstance(token_ids, list | tuple) and any(isinstance(token, bool | np.bool_) for token in token_ids)
    if not np.issubdtype(given.dtype, np.integer) or mixed_bool:
        kind = "bool" if mixed_bool else given.dtype
        raise InvalidTokensError(f"token ids are of type {kind}; give integers from 0 to {vocab_size - 1}")
    wrong = np.flatnonzero((given < 0) | (given >= vocab_size))
    if wrong.size:
        place = int(wrong[0])
        raise InvalidTokensError(
            f"token id {given[place]} at place {place} is outside 0 to {vocab_size - 1}; "
            "encode the text with this memory's own tokenizer"
        )
    return given.astype(np.uint32)
