"""What a gister may ask of the base model's handle, and the checks that every gister makes of its input."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidTokensError, InvalidValueError
from megacontext.ports.base import Base, BaseInfo
from megacontext.ports.text import EmbeddingRows, TextCodec
from megacontext.values import whole_number

__all__ = ["BaseSource", "check_width", "whole_blocks"]


class BaseSource(Protocol):
    """A base model of which only as much is read as a gister asks for."""

    @property
    def info(self) -> BaseInfo: ...

    @property
    def codec(self) -> TextCodec: ...

    @property
    def embeddings(self) -> EmbeddingRows: ...

    def load(self) -> Base:
        """The model itself; the first call may take seconds."""
        ...


def check_width(gist_width: int, block_tokens: int) -> None:
    """InvalidValueError when a block cannot be shown by ``gist_width`` vectors."""
    whole_number("gist_width", gist_width, least=1, most=block_tokens, of="vectors")


def whole_blocks(
    token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int, block_tokens: int
) -> npt.NDArray[np.uint32]:
    """The tokens [n, K] after the context; raises when they are not whole, aligned blocks."""
    if token_ids.ndim != 1 or token_ids.dtype.kind not in "ui":
        raise InvalidTokensError(
            f"token ids have shape {token_ids.shape} and dtype {token_ids.dtype}; expected a flat array of integers"
        )
    num_tokens = len(token_ids) - num_context
    if num_context < 0 or num_tokens < 0 or num_tokens % block_tokens or (start + num_context) % block_tokens:
        raise InvalidValueError(
            f"{num_tokens} tokens from {start + num_context} on are not whole blocks of {block_tokens}; align both ends"
        )
    return token_ids[num_context:].reshape(-1, block_tokens)
