"""What is kept of a sealed segment beside its shard: the digest of its tokens, and a blob of those without a source.

Whoever writes, checks, erases, repairs or rebuilds a segment must agree on both to the byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt

from megacontext.ports.catalog import Catalog

__all__ = ["bytes_tokens", "token_bytes", "token_digest", "unsourced"]

_DTYPE = "<u4"


def token_bytes(pieces: Sequence[npt.NDArray[np.uint32]]) -> bytes:
    """Tokens end to end, as a segment's blob keeps them."""
    return np.concatenate([np.empty(0, np.uint32), *pieces]).astype(_DTYPE, copy=False).tobytes()


def bytes_tokens(data: bytes) -> npt.NDArray[np.uint32]:
    """The same back."""
    return np.frombuffer(data, _DTYPE)


def token_digest(tokens: npt.NDArray[np.generic]) -> str:
    """The sha256 that the catalog keeps of a segment's tokens."""
    return hashlib.sha256(tokens.astype(_DTYPE, copy=False).tobytes()).hexdigest()


def unsourced(
    catalog: Catalog, first: int, last: int, *, erased_ids: AbstractSet[int] = frozenset()
) -> Iterator[tuple[int, int]]:
    """Ranges of the tokens [first, last) that have no raw source but their segment's blob; with those of sources that
    are being erased."""
    for source, extent in catalog.extents(first, last):
        if not source.raw_digest or source.source_id in erased_ids:
            yield max(first, extent.token_start), min(last, extent.token_stop)
