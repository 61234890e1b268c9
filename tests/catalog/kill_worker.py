"""Ingests small sources until it is killed, sealing as it goes; prints how many tokens are acknowledged."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.ports.catalog import Extent, Passage, Segment, Source
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.blobs import FileBlobs
from megacontext.testing.array_store_suite import TOKENS

PIECE_TOKENS = 24


def acknowledge(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    catalog, arrays, blobs = SqliteCatalog.open(folder), TensorStoreArrays(folder), FileBlobs(folder)
    # a segment of the catalog is a shard of the arrays
    catalog.info = dataclasses.replace(catalog.info, segment_tokens=TOKENS.shard_rows)
    acknowledge("ready")
    while True:
        start, sealed = catalog.state().num_tokens, catalog.state().sealed_tokens
        stop = start + PIECE_TOKENS
        digest = blobs.put(b"source %d" % start)
        if stop - sealed >= TOKENS.shard_rows:
            rows = np.arange(sealed, sealed + TOKENS.shard_rows, dtype=np.uint32)
            arrays.write_shard(TOKENS, sealed // TOKENS.shard_rows, rows)
        with catalog.write() as writer:
            source = Source(
                uri=f"file:///{start}",
                version=1,
                kind="text",
                raw_digest=digest,
                text_digest=digest,
                num_bytes=9,
                token_start=start,
                token_stop=stop,
            )
            source_id = writer.add_source(source)
            writer.add_extent(
                Extent(
                    source_id=source_id,
                    token_start=start,
                    token_stop=stop,
                    byte_start=0,
                    byte_stop=9,
                    anchors=np.zeros(1, dtype=np.int64),
                )
            )
            writer.append_tail(start, np.arange(start, stop, dtype=np.uint32))
            writer.add_passages([Passage(token_start=start, token_stop=stop, text=f"w{start}")])
            if stop - sealed >= TOKENS.shard_rows:
                writer.seal(Segment(segment=sealed // TOKENS.shard_rows, digest="d"))
        acknowledge(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
