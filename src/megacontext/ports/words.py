"""What spans have in common with a query, word by word: the few that are there, not a table of all that are not.

Shape legend: n spans, Q query tokens, m words found, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["WordsInCommon"]


@dataclass(frozen=True, kw_only=True)
class WordsInCommon:
    """Amounts of words by span, of four kinds: the token itself and it with the one before, in the span and then in
    what stands right before it. A column is a word of one kind, whichever places of the query it stands at.

    A sparse matrix [n, C] in compressed rows: starts_n is where each span's words begin among all that were found,
    columns_m their columns, amounts_m how much of each, 1 if one span alone holds it once. The last of the num_columns
    (C) is of no word. columns_4Q: the column of each kind and query token, C - 1 for none.
    """

    num_columns: int
    starts_n: npt.NDArray[np.int64]
    columns_m: npt.NDArray[np.int64]
    amounts_m: npt.NDArray[np.float32]
    columns_4Q: npt.NDArray[np.int64]  # noqa: N815 - shape suffix

    def by_token(self) -> npt.NDArray[np.float32]:
        """The amounts [n, Q, 4] of every query token, most of them 0."""
        num_spans = len(self.starts_n)
        amounts_nC = np.zeros((num_spans, self.num_columns), dtype=np.float32)
        rows_m = np.repeat(np.arange(num_spans), np.diff(self.starts_n, append=len(self.columns_m)))
        amounts_nC[rows_m, self.columns_m] = self.amounts_m
        amounts_4nQ = amounts_nC.T[self.columns_4Q].transpose(0, 2, 1)
        return np.ascontiguousarray(amounts_4nQ).transpose(1, 2, 0)  # kind by kind, as they are compared
