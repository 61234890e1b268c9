"""kill -9 at any moment loses nothing that was acknowledged, and leaves nothing half done."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.blobs import FileBlobs
from megacontext.testing.array_store_suite import TOKENS
from megacontext.testing.catalog_suite import EXAMPLE_INFO

WORKER = Path(__file__).with_name("kill_worker.py")
NUM_SEEDS = 3


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_nothing_acknowledged_is_lost(tmp_path: Path, seed: int) -> None:
    SqliteCatalog.create(tmp_path, EXAMPLE_INFO).close()
    acknowledged = 0
    for attempt in range(2):  # the second worker starts on what the first left behind
        worker = subprocess.Popen([sys.executable, WORKER, tmp_path], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        time.sleep(random.Random(10 * seed + attempt).uniform(0.01, 0.3))
        worker.kill()
        lines = [line for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        worker.stdout.close()
        worker.wait()
        acknowledged = max([acknowledged, *map(int, lines)])
        inspect(tmp_path, acknowledged)
    assert acknowledged > 0


def inspect(folder: Path, acknowledged: int) -> None:
    catalog = SqliteCatalog.open(folder)
    state = catalog.state()
    assert state.num_tokens >= acknowledged
    assert [damage.problem for damage in catalog.check()] == []
    sealed_tokens, tail = catalog.tail(0, state.num_tokens)
    np.testing.assert_array_equal(tail, np.arange(sealed_tokens, state.num_tokens))
    blobs = FileBlobs(folder)
    position = 0
    for source in catalog.sources():  # tokens, provenance, raw source and index are there together
        assert source.token_start == position
        position = source.token_stop
        assert blobs.get(source.raw_digest) == b"source %d" % source.token_start
        assert [extent.token_stop for _, extent in catalog.extents(source.token_start, source.token_stop)] == [position]
        assert source.token_start in {hit.token_start for hit in catalog.search(f"w{source.token_start}", limit=5)}
    assert position == state.num_tokens
    if sealed_tokens:
        arrays = TensorStoreArrays(folder)
        sealed = np.concatenate(
            [arrays.read_shard(TOKENS, shard) for shard in range(sealed_tokens // TOKENS.shard_rows)]
        )
        np.testing.assert_array_equal(sealed, np.arange(sealed_tokens))
    catalog.close()
