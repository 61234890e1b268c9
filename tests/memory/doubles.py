"""Parts in memory: small enough to be obviously right, with the same limits as the real ones."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from megacontext.errors import CorruptionError
from megacontext.memory.memory import Memory
from megacontext.ports.catalog import CatalogState, MemoryInfo, SearchHit
from megacontext.ports.gister import GistBatch
from megacontext.ports.text import Encoded

VOCAB = 300


class ByteCodec:
    """One token per UTF-8 byte, so that many tokens cut characters in pieces."""

    vocab_size = VOCAB
    fingerprint = "bytes"

    def encode(self, text: str) -> Encoded:
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
        starts = [place for place, character in enumerate(text) for _ in character.encode()]
        return Encoded(token_ids=ids, char_starts=np.asarray(starts, np.int64))

    def encode_batch(self, texts: list[str]) -> list[Encoded]:
        return [self.encode(text) for text in texts]

    def decode(self, token_ids: np.ndarray) -> str:
        return bytes(int(token) for token in token_ids if token < 256).decode("utf-8", "replace")


class MeanGister:
    """A fixed embedding row per token; the mean of each block."""

    name = "mean"
    gist_width = 1
    context_tokens = 0
    spread = 12**-0.5

    def __init__(self, block_tokens: int = 8, dim: int = 4) -> None:
        self.version = "1"
        self.block_tokens = self.window_tokens = block_tokens
        self.dim = dim

    def from_tokens(self, token_ids: np.ndarray, *, start: int, num_context: int) -> GistBatch:
        rows = np.stack([(token_ids * (i + 7)) % 101 / 101 for i in range(self.dim)], -1)
        return self._mean(rows[num_context:].reshape(-1, self.block_tokens, self.dim), self.block_tokens)

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        rows = children.vectors.astype(np.float64).reshape(-1, self.block_tokens, self.dim)
        return self._mean(rows, self.block_tokens**level)

    def _mean(self, rows: np.ndarray, width: int) -> GistBatch:
        n = len(rows)
        return GistBatch(
            vectors=rows.mean(1, keepdims=True).astype(np.float16),
            offsets=np.full((n, 1), (width - 1) / 2, np.float32),
            weights=np.ones((n, 1), np.float32),
        )


class ContextGister(MeanGister):
    """Gists that depend on all tokens from the context's start on, as a language model's would."""

    name = "context"
    context_tokens = 24

    def __init__(self, block_tokens: int = 8, dim: int = 4) -> None:
        super().__init__(block_tokens, dim)
        self.window_tokens = 5 * block_tokens

    def from_tokens(self, token_ids: np.ndarray, *, start: int, num_context: int) -> GistBatch:
        rows = []
        for place in range(num_context, len(token_ids), self.block_tokens):
            position = start + place
            begin = max(0, position // self.window_tokens * self.window_tokens - self.context_tokens)
            seen = token_ids[begin - start : place + self.block_tokens].astype(np.float64)
            assert begin >= start, "context is missing"
            rows.append([np.sin(seen * (i + 1)).sum() for i in range(self.dim)])
        array = np.asarray(rows).reshape(-1, 1, self.dim)
        return GistBatch(
            vectors=array.astype(np.float16),
            offsets=np.full((len(array), 1), 3, np.float32),
            weights=np.abs(array[..., 0]).astype(np.float32),
        )


class MemoryArrays:
    def __init__(self) -> None:
        self.shards: dict[tuple[str, int], np.ndarray] = {}

    def write_shard(self, spec, shard, rows) -> None:
        assert rows.shape == (spec.shard_rows, *spec.row_shape)
        self.shards[spec.name, shard] = rows.astype(spec.dtype)

    def read(self, spec, start, stop) -> np.ndarray:
        pieces = [np.empty((0, *spec.row_shape), spec.dtype)]
        for shard in range(start // spec.shard_rows, -(-stop // spec.shard_rows)):
            if (spec.name, shard) not in self.shards:
                raise CorruptionError(f"{self.object_name(spec, shard)} is missing")
            first = shard * spec.shard_rows
            pieces.append(self.shards[spec.name, shard][max(0, start - first) : stop - first])
        return np.concatenate(pieces)

    def read_many(self, spec, spans) -> list[np.ndarray]:
        return [self.read(spec, start, stop) for start, stop in spans]

    def read_shard(self, spec, shard) -> np.ndarray:
        return self.read(spec, shard * spec.shard_rows, (shard + 1) * spec.shard_rows)

    def remove_orphans(self) -> int:
        return 0

    def object_name(self, spec, shard) -> str:
        return f"{spec.name}/{shard}"

    def num_bytes(self) -> int:
        return sum(rows.nbytes for rows in self.shards.values())


class MemoryBlobs:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def put_many(self, blobs) -> list[str]:
        return [self.put(data) for data in blobs]

    def remove_orphans(self) -> int:
        return 0

    def get(self, digest: str) -> bytes:
        if hashlib.sha256(self.blobs.get(digest, b"")).hexdigest() != digest:
            raise CorruptionError(f"{digest} is damaged")
        return self.blobs[digest]

    def digests(self) -> Iterator[str]:
        return iter(list(self.blobs))

    def delete(self, digest: str) -> None:
        self.blobs.pop(digest, None)

    def object_name(self, digest: str) -> str:
        return f"raw/{digest}"

    def num_bytes(self) -> int:
        return sum(map(len, self.blobs.values()))


class MemoryCatalog:
    """Everything in lists; a transaction works on a copy."""

    def __init__(self, info: MemoryInfo) -> None:
        self.info = info
        self.data = {
            "tokens": np.empty(0, np.uint32),
            "sealed": 0,
            "nodes": {},
            "indexed": 0,
            "sources": [],
            "extents": [],
            "segments": [],
            "gists": {},
            "passages": [],
        }

    def state(self) -> CatalogState:
        d = self.data
        return CatalogState(
            num_tokens=max(d["sealed"], len(d["tokens"])),
            sealed_tokens=d["sealed"],
            sealed_nodes=dict(d["nodes"]),
            indexed_tokens=d["indexed"],
            num_sources=len(d["sources"]),
        )

    @contextmanager
    def write(self):
        draft = copy.deepcopy(self.data)
        yield _MemoryWriter(self.info, draft)
        self.data = draft

    def tail(self, start, stop):
        return self.data["sealed"], self.data["tokens"][max(start, self.data["sealed"]) : stop]

    def gists(self, level, start_node, stop_node):
        held = self.data["gists"].get(level, {})
        return [(node, held[node]) for node in sorted(held) if start_node <= node < stop_node]

    def sources(self, *, uri=None):
        return [source for source in self.data["sources"] if uri in (None, source.uri)]

    def extents(self, token_start, token_stop):
        by_id = {source.source_id: source for source in self.data["sources"]}
        return [
            (by_id[extent.source_id], extent)
            for extent in self.data["extents"]
            if extent.token_start < token_stop and token_start < extent.token_stop
        ]

    def segments(self):
        return list(self.data["segments"])

    def search(self, text, *, limit):
        words = set(re.findall(r"\w+", text.lower()))
        hits = [
            SearchHit(token_start=p.token_start, token_stop=p.token_stop, score=float(len(common)))
            for p in self.data["passages"]
            if (common := words & set(re.findall(r"\w+", p.text.lower())))
        ]
        return sorted(hits, key=lambda hit: -hit.score)[:limit]

    def check(self):
        return iter(())

    def num_bytes(self) -> int:
        return self.data["tokens"].nbytes

    def close(self) -> None:
        pass


class _MemoryWriter:
    def __init__(self, info, data) -> None:
        self.info, self.data = info, data

    def add_source(self, source) -> int:
        source_id = len(self.data["sources"]) + 1
        self.data["sources"].append(dataclasses.replace(source, source_id=source_id))
        return source_id

    def extend_source(self, source_id, *, token_stop, num_bytes) -> None:
        assert source_id == len(self.data["sources"])
        self.data["sources"][-1] = dataclasses.replace(
            self.data["sources"][-1], token_stop=token_stop, num_bytes=num_bytes
        )
        self.data["extents"][-1] = dataclasses.replace(self.data["extents"][-1], token_stop=token_stop)

    def add_extent(self, extent) -> None:
        self.data["extents"].append(extent)

    def append_tail(self, start, token_ids) -> None:
        assert start == max(self.data["sealed"], len(self.data["tokens"]))
        gap = np.zeros(start - len(self.data["tokens"]), np.uint32)
        self.data["tokens"] = np.concatenate([self.data["tokens"], gap, token_ids])

    def replace_tail(self, start, token_ids) -> None:
        self.data["tokens"][start : start + len(token_ids)] = token_ids

    def seal(self, segment) -> None:
        assert segment.segment == len(self.data["segments"])
        self.data["segments"].append(segment)
        self.data["sealed"] += self.info.segment_tokens

    def put_gists(self, level, start_node, gists) -> None:
        for row in range(len(gists)):
            self.data["gists"].setdefault(level, {})[start_node + row] = gists[row : row + 1]

    def seal_gists(self, level, stop_node) -> None:
        self.data["nodes"][level] = stop_node
        held = self.data["gists"].get(level, {})
        for node in [node for node in held if node < stop_node]:
            del held[node]

    def add_passages(self, passages) -> None:
        self.data["passages"].extend(passages)
        self.data["indexed"] = passages[-1].token_stop

    def drop_index(self) -> None:
        self.data["passages"], self.data["indexed"] = [], 0

    def set_label(self, source_id, key, value) -> None:
        source = self.data["sources"][source_id - 1]
        self.data["sources"][source_id - 1] = dataclasses.replace(source, labels={**source.labels, key: value})


def make_info(gister: MeanGister, segment_tokens: int = 512) -> MemoryInfo:
    return MemoryInfo(
        block_tokens=gister.block_tokens,
        segment_tokens=segment_tokens,
        base_name="fake",
        base_revision="",
        base_fingerprint="fake",
        vocab_size=VOCAB,
        dim=gister.dim,
        gister_name=gister.name,
        gister_version=gister.version,
        gist_width=gister.gist_width,
        created_at=0.0,
    )


def make_memory(gister: MeanGister | None = None, *, segment_tokens: int = 512, **parts) -> Memory:
    """A memory with everything in RAM: K = 8, segments of 512 tokens."""
    gister = gister or MeanGister()
    parts = {
        "catalog": parts.pop("catalog", None) or MemoryCatalog(make_info(gister, segment_tokens)),
        "arrays": MemoryArrays(),
        "blobs": MemoryBlobs(),
        "codec": ByteCodec(),
        "gister": lambda: gister,
        **parts,
    }
    return Memory(**parts)
