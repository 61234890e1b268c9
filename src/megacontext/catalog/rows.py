"""Rows of the catalog to values of the ports and back, checksums verified on the way in."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.catalog.checksums import blob_crc, row_crc
from megacontext.errors import CorruptionError
from megacontext.ports.catalog import Extent, MemoryInfo, Segment, Source
from megacontext.ports.gister import GistBatch

__all__ = [
    "CATALOG_FILE",
    "Progress",
    "blob_row",
    "checked",
    "checked_blob",
    "extent_of",
    "extent_row",
    "gist_payloads",
    "gists_of",
    "info_of",
    "info_row",
    "segment_of",
    "segment_row",
    "source_of",
    "source_row",
    "tokens_of",
    "with_crc",
]

CATALOG_FILE = "catalog.sqlite"

Row = tuple[Any, ...]


@dataclass(kw_only=True)
class Progress:
    """The one row that says how far everything is; fields in column order."""

    id: int = 1
    num_commits: int = 0
    num_tokens: int = 0
    sealed_tokens: int = 0
    indexed_tokens: int = 0
    num_sources: int = 0
    num_extents: int = 0
    num_passages: int = 0
    num_terms: int = 0
    index_sum: int = 0

    def row(self) -> Row:
        return with_crc(tuple(vars(self).values()))


def with_crc(values: Row) -> Row:
    return (*values, row_crc(values))


def checked(table: str, row: Row) -> Row:
    """The row without its crc; CorruptionError if it does not match."""
    if row_crc(row[:-1]) != row[-1]:
        raise CorruptionError(_message(table, row[0]))
    return row[:-1]


def blob_row(first: int, second: int, blob: bytes) -> Row:
    return first, second, blob, blob_crc(first, second, blob)


def checked_blob(table: str, row: Row) -> Row:
    first, second, blob, crc = row
    try:
        matches = blob_crc(first, second, blob) == crc
    except (TypeError, ValueError, struct.error):  # damage may turn a value into one of another type
        matches = False
    if not matches:
        raise CorruptionError(_message(table, f"{first}/{second}" if table == "gists" else first))
    return first, second, blob


def _message(table: str, key: Any) -> str:
    return f"{CATALOG_FILE}: row {key} of {table} fails its checksum; run 'megacontext check --repair'"


def info_row(info: MemoryInfo) -> Row:
    return with_crc((1, json.dumps(asdict(info), sort_keys=True)))


def info_of(row: Row) -> MemoryInfo:
    return MemoryInfo(**json.loads(checked("memory", row)[1]))


def source_row(source: Source) -> Row:
    return with_crc(
        (
            source.source_id,
            source.uri,
            source.version,
            source.kind,
            source.raw_digest,
            source.text_digest,
            source.num_bytes,
            source.token_start,
            source.token_stop,
            source.role,
            source.author,
            source.licence,
            float(source.created_at),
        )
    )


def source_of(row: Row, labels: Mapping[str, str]) -> Source:
    values = checked("sources", row)
    return Source(
        source_id=values[0],
        uri=values[1],
        version=values[2],
        kind=values[3],
        raw_digest=values[4],
        text_digest=values[5],
        num_bytes=values[6],
        token_start=values[7],
        token_stop=values[8],
        role=values[9],
        author=values[10],
        licence=values[11],
        labels=labels,
        created_at=values[12],
    )


def extent_row(extent_id: int, extent: Extent) -> Row:
    return with_crc(
        (
            extent_id,
            extent.source_id,
            extent.token_start,
            extent.token_stop,
            extent.byte_start,
            extent.byte_stop,
            extent.title,
            extent.role,
            float(extent.time),
            np.ascontiguousarray(extent.anchors, dtype="<i8").tobytes(),
        )
    )


def extent_of(row: Row) -> Extent:
    values = checked("extents", row)
    return Extent(
        source_id=values[1],
        token_start=values[2],
        token_stop=values[3],
        byte_start=values[4],
        byte_stop=values[5],
        title=values[6],
        role=values[7],
        time=values[8],
        anchors=np.frombuffer(values[9], dtype="<i8").astype(np.int64, copy=False),
    )


def segment_row(segment: Segment) -> Row:
    return with_crc((segment.segment, segment.digest, segment.raw_digest))


def segment_of(row: Row) -> Segment:
    segment, digest, raw_digest = checked("segments", row)
    return Segment(segment=segment, digest=digest, raw_digest=raw_digest)


def tokens_of(blobs: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    return np.frombuffer(b"".join(blobs), dtype="<u4").astype(np.uint32)


def gist_payloads(gists: GistBatch) -> list[bytes]:
    """One payload per node: vectors, offsets, weights."""
    num_nodes = len(gists)
    parts = (
        np.ascontiguousarray(gists.vectors, dtype="<f2"),
        np.ascontiguousarray(gists.offsets, dtype="<f4"),
        np.ascontiguousarray(gists.weights, dtype="<f4"),
    )
    payloads = np.concatenate([part.reshape(num_nodes, -1).view(np.uint8) for part in parts], axis=1)
    return [payload.tobytes() for payload in payloads]


def gists_of(payloads: Sequence[bytes], info: MemoryInfo) -> GistBatch:
    width, dim = info.gist_width, info.dim
    rows = np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(len(payloads), -1)
    vectors, offsets, weights = np.split(rows, [2 * width * dim, 2 * width * dim + 4 * width], axis=1)
    return GistBatch(
        vectors=np.ascontiguousarray(vectors).view("<f2").astype(np.float16, copy=False).reshape(-1, width, dim),
        offsets=np.ascontiguousarray(offsets).view("<f4").astype(np.float32, copy=False).reshape(-1, width),
        weights=np.ascontiguousarray(weights).view("<f4").astype(np.float32, copy=False).reshape(-1, width),
    )
