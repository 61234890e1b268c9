"""Memories of a given length, made fast: real text repeated in other orders, gists by mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.library import assemble_library
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory
from megacontext.units import MIB

__all__ = ["make_history", "real_tokens", "token_stream"]

LIBRARY_TOKENS = 1_000_000
STRETCH_TOKENS = 4_096
APPEND_TOKENS = 65_536


def token_stream(
    handle: BaseHandle, num_tokens: int, *, library_tokens: int = LIBRARY_TOKENS, seed: int = 0
) -> Iterator[npt.NDArray[np.uint32]]:
    """Tokens of books and code in pieces of APPEND_TOKENS; what is more than the library has are its stretches
    again, in another order. Holds no more than the library."""
    library = assemble_library(handle.codec, num_tokens=min(num_tokens, library_tokens), seed=seed)
    token_ids = np.concatenate([handle.codec.encode(text.text).token_ids for text in library.texts])
    stretches = token_ids[: len(token_ids) // STRETCH_TOKENS * STRETCH_TOKENS].reshape(-1, STRETCH_TOKENS)
    random = np.random.default_rng(seed)
    num_given = 0
    while num_given < num_tokens:
        for start in range(0, len(token_ids), APPEND_TOKENS):
            piece = token_ids[start : start + APPEND_TOKENS][: num_tokens - num_given]
            if len(piece):
                yield piece
            num_given += len(piece)
        token_ids = random.permutation(stretches).reshape(-1)


def real_tokens(handle: BaseHandle, num_tokens: int, *, seed: int = 0) -> npt.NDArray[np.uint32]:
    """The same as one array."""
    return np.concatenate(list(token_stream(handle, num_tokens, seed=seed)))


def make_history(
    folder: Path,
    handle: BaseHandle,
    num_tokens: int,
    *,
    gister: str = "mean",
    library_tokens: int = LIBRARY_TOKENS,
    cache_bytes: int = 64 * MIB,
) -> OpenedMemory:
    """A new memory of ``num_tokens`` tokens in ``folder``."""
    memory = open_memory(folder, base=handle, create=True, gister=gister, cache_bytes=cache_bytes)
    for piece in token_stream(handle, num_tokens, library_tokens=library_tokens):
        memory.append(piece, source="history")
    return memory
