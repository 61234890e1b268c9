"""What a memory costs: milliseconds per token, bytes per token, tokens read per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megacontext.memory.memory import Memory
from megacontext.runtime.events import RefocusEvent, TokenEvent
from megacontext.runtime.session import Session

__all__ = ["DecodeCost", "DiskCost", "decode_cost", "disk_cost"]

MOST_ROUNDS = 64  # an answer may stop early; then another is sampled


@dataclass(frozen=True, kw_only=True)
class DecodeCost:
    """Generation over one history. first_ms: refocus, window and first token; per_token_ms: median of the following
    ones; with_refocus_ms: their mean with all refocuses, and what these recompute, in it."""

    num_tokens: int
    first_ms: float
    per_token_ms: float
    with_refocus_ms: float
    num_generated: int


@dataclass(frozen=True, kw_only=True)
class DiskCost:
    """Bytes on disk per token of history, by what they hold."""

    tokens: float
    gists: float
    raw: float
    catalog: float

    @property
    def total(self) -> float:
        return self.tokens + self.gists + self.raw + self.catalog


def decode_cost(session: Session, *, num_tokens: int, prompt: str, num_generated: int) -> DecodeCost:
    """Time a continuation of ``prompt``, sampled so that it does not stop early; as many rounds as it takes."""
    firsts: list[float] = []
    steps: list[float] = []
    num_rest, rest_ms = 0, 0.0
    for seed in range(MOST_ROUNDS):
        began = last = time.perf_counter()
        is_first, is_plain = True, True
        for event in session.complete(prompt, max_new_tokens=num_generated + 1, temperature=1.0, seed=seed):
            now = time.perf_counter()
            if isinstance(event, RefocusEvent):
                is_plain = False  # the next token pays for the window that changed
            elif isinstance(event, TokenEvent):
                if is_first:
                    firsts.append(1e3 * (now - began))
                    last = now
                else:
                    steps += [1e3 * (now - last)] if is_plain else []
                    rest_ms += 1e3 * (now - last)
                    num_rest += 1
                    last = now
                is_first, is_plain = False, True
            if isinstance(event, TokenEvent) and num_rest >= num_generated:
                break
        if num_rest >= num_generated:
            break
    return DecodeCost(
        num_tokens=num_tokens,
        first_ms=statistics.median(firsts),
        per_token_ms=statistics.median(steps),
        with_refocus_ms=rest_ms / num_rest,
        num_generated=num_rest,
    )


def disk_cost(memory: Memory, folder: Path) -> DiskCost:
    """Split the bytes of a memory's folder; what is in neither arrays nor raw blobs is catalog and index."""
    stats = memory.inspect()
    token_bytes = _folder_bytes(folder.rglob("lod0"))
    num_tokens = max(1, stats.num_tokens)
    return DiskCost(
        tokens=token_bytes / num_tokens,
        gists=(stats.array_bytes - token_bytes) / num_tokens,
        raw=stats.blob_bytes / num_tokens,
        catalog=stats.catalog_bytes / num_tokens,
    )


def _folder_bytes(folders: Iterable[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
