"""Token ids as rows of numbers, so that the window of a model that reads text is stored and moved like any other.

A row is (high, low, mark): the two digits of an id to the base of 2048, which float16 holds exactly, and a
``RowMark``.

Shape legend: T rows, D = ``ROW_WIDTH``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidTokensError, InvariantError
from megacontext.ports.text import RowMark

__all__ = ["MOST_IDS", "ROW_WIDTH", "DigitRows", "read_rows"]

ROW_WIDTH = 3
DIGIT = 2048
MOST_IDS = DIGIT * DIGIT


class DigitRows:
    """The rows of a vocabulary: ``ports.text.TextRows``."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Float32 [..., D] of tokens of the history."""
        return self.marked(token_ids, np.full(token_ids.shape, int(RowMark.RAW)))

    def marked(
        self, token_ids: npt.NDArray[np.integer[Any]], marks: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.float32]:
        """Float32 [..., D] of ids and marks of one shape."""
        if token_ids.size and not 0 <= int(token_ids.min()) <= int(token_ids.max()) < self.vocab_size:
            raise InvalidTokensError(
                f"token ids go from {token_ids.min()} to {token_ids.max()}; use ids from 0 to {self.vocab_size - 1}"
            )
        ids = token_ids.astype(np.int64)
        return np.stack([ids // DIGIT, ids % DIGIT, marks], axis=-1).astype(np.float32)

    def read(self, rows_TD: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Ids [T] and marks [T] of rows."""
        return read_rows(rows_TD)


def read_rows(rows_TD: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Ids [T] and marks [T] back from rows. InvariantError for rows that nobody here made."""
    whole_TD = rows_TD.astype(np.int64)
    high_T, low_T, marks_T = whole_TD[:, 0], whole_TD[:, 1], whole_TD[:, 2]
    is_wrong = (
        (whole_TD != rows_TD).any(axis=1) | (whole_TD < 0).any(axis=1) | (low_T >= DIGIT) | (marks_T > RowMark.EMPTY)
    )
    if is_wrong.any():
        row = int(np.flatnonzero(is_wrong)[0])
        raise InvariantError(f"row {row} of a text window is {rows_TD[row].tolist()}, which spells no token")
    return (high_T * DIGIT + low_T).astype(np.uint32), marks_T
