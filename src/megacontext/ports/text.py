"""Text to token ids and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["EmbeddingRows", "Encoded", "RowMark", "SupportsTokenBytes", "TextCodec", "TextRows"]


class RowMark(IntEnum):
    """What a row of a window stands for, where windows are text: a token of the history, the first token of a stretch
    that a gist quotes, one that goes on with it, or a place that a gist leaves empty."""

    RAW = 0
    BEGINS = 1
    GOES_ON = 2
    EMPTY = 3


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """token_ids: uint32 [n]; char_starts: int64 [n], where each token begins in the text, in characters."""

    token_ids: npt.NDArray[np.uint32]
    char_starts: npt.NDArray[np.int64]


class TextCodec(Protocol):
    """A tokenizer without its habits: no special token is added, and special-token text in data is plain text."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the ids."""
        ...

    def encode(self, text: str) -> Encoded: ...

    def encode_batch(self, texts: list[str]) -> list[Encoded]: ...

    def decode(self, token_ids: npt.NDArray[np.uint32]) -> str: ...


@runtime_checkable
class SupportsTokenBytes(Protocol):
    """Tokens that stand for bytes of text each by itself: a stream of them needs no look back."""

    def bytes_of(self, token_ids: npt.NDArray[np.uint32]) -> bytes | None:
        """UTF-8 of ids, in which a character may be cut at either end; None if this vocabulary has no such bytes."""
        ...


class EmbeddingRows(Protocol):
    """The input-embedding matrix, row by row."""

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Float32 [..., D] embeddings of ids."""
        ...


@runtime_checkable
class TextRows(Protocol):
    """Rows that spell tokens, of a base that reads text: they carry a ``RowMark`` each."""

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Float32 [..., D] of ids, all of them ``RowMark.RAW``."""
        ...

    def marked(
        self, token_ids: npt.NDArray[np.integer[Any]], marks: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.float32]:
        """Float32 [..., D] of ids and marks of one shape."""
        ...

    def read(self, rows_TD: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Ids [T] and marks [T] back from rows [T, D]."""
        ...
