"""Long reads of sealed rows that leave the store's cache to those who read again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from megacontext.ports.arrays import ArraySpec, ArrayStore

__all__ = ["ReadSpans", "Span", "scanned"]

_SCAN_SHARE = 8  # spans of at least this part of a shard are read whole

Span = tuple[int, int]
ReadSpans = Callable[[ArraySpec, Sequence[Span]], list[npt.NDArray[np.generic]]]


def scanned(arrays: ArrayStore) -> ReadSpans:
    """Reads long spans shard by shard past the cache: what is read once must not push out what a session reads again
    and again, nor make a process grow with its history."""

    def read(spec: ArraySpec, spans: Sequence[Span]) -> list[npt.NDArray[np.generic]]:
        rows = []
        for start, stop in spans:
            pieces = []
            for shard in range(start // spec.shard_rows, -(-stop // spec.shard_rows)):
                first = shard * spec.shard_rows
                begin, end = max(start, first), min(stop, first + spec.shard_rows)
                if (end - begin) * _SCAN_SHARE >= spec.shard_rows:
                    pieces.append(arrays.read_shard(spec, shard)[begin - first : end - first])
                else:
                    pieces.append(arrays.read(spec, begin, end))
            rows.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        return rows

    return read
