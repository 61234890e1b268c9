"""Text to token ids and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["Encoded", "SupportsTokenBytes", "TextCodec"]


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
