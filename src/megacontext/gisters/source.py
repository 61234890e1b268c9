"""The checks that every gister makes of its input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidTokensError, InvalidValueError
from megacontext.values import whole_number

__all__ = ["check_width", "whole_blocks"]


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
