"""Writing several shards at once: each waits for the disk, and their waits overlap."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from megacontext.ports.arrays import ArraySpec, ArrayStore

__all__ = ["WRITE_AHEAD", "ShardRows", "write_shards"]

WRITE_AHEAD = 8  # shards in flight; each holds its rows in memory

ShardRows = tuple[ArraySpec, int, npt.NDArray[np.generic]]


def write_shards(arrays: ArrayStore, shards: Iterable[ShardRows]) -> None:
    """Write shards ``(spec, number, rows)``, all durable on return; the first failure is raised after all ended."""
    waiting = list(shards)
    if len(waiting) == 1:
        arrays.write_shard(*waiting[0])
        return
    with ThreadPoolExecutor(max_workers=max(1, len(waiting)), thread_name_prefix="shards") as pool:
        for written in [pool.submit(arrays.write_shard, *shard) for shard in waiting]:
            written.result()
