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

    num_spans, num_columns: n and C, of which the last column is of no word. cells_m: ``span * C + column`` of what was
    found, ascending. amounts_m: of each, 1 if one span alone holds it once. columns_4Q: the column of each kind and
    query token, C - 1 for none.
    """

    num_spans: int
    num_columns: int
    cells_m: npt.NDArray[np.int64]
    amounts_m: npt.NDArray[np.float32]
    columns_4Q: npt.NDArray[np.int64]  # noqa: N815 - shape suffix

    def by_token(self) -> npt.NDArray[np.float32]:
        """The amounts [n, Q, 4] of every query token, most of them 0."""
        amounts_N = np.zeros(self.num_spans * self.num_columns, dtype=np.float32)
        amounts_N[self.cells_m] = self.amounts_m
        amounts_4nQ = amounts_N.reshape(self.num_spans, self.num_columns).T[self.columns_4Q].transpose(0, 2, 1)
        return np.ascontiguousarray(amounts_4nQ).transpose(1, 2, 0)  # kind by kind, as they are compared
