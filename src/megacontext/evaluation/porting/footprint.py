"""What a base costs: how fast it reads and writes, and the memory that it and its windows take."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from megacontext.machine import memory_bytes
from megacontext.ports.base import Base, SupportsFootprint

__all__ = ["WINDOWS", "Cost", "WindowCost", "measure_cost", "total_bytes"]

WINDOWS = (1024, 4096, 16384, 65536)
PREFILL_ENTRIES, DECODE_STEPS = 256, 16


@dataclass(frozen=True, kw_only=True)
class WindowCost:
    """cache_bytes: keys and values of a window of so many entries; fits: with the weights, into the device's memory."""

    num_entries: int
    cache_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Cost:
    """prefill, decode: tokens per second, one session; device_bytes: memory of the device, 0 if it does not say."""

    prefill: float
    decode: float
    weight_bytes: int
    entry_bytes: int
    device_bytes: int
    windows: tuple[WindowCost, ...]


def total_bytes(device: str) -> int:
    """Memory of a device; 0 where nobody says."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1])
    return memory_bytes()


def measure_cost(base: Base) -> Cost:
    """Run a short window and a few steps of decoding, and count what lies in memory."""
    info = base.info
    prefill, decode = _speeds(base)
    weights, entry = (base.weight_bytes, base.entry_bytes) if isinstance(base, SupportsFootprint) else (0, 0)
    device = total_bytes(info.device)
    sizes = sorted({*(size for size in WINDOWS if size <= info.max_positions), info.max_positions})
    windows = tuple(
        WindowCost(num_entries=size, cache_bytes=size * entry, fits=not device or weights + size * entry <= device)
        for size in sizes
    )
    return Cost(
        prefill=prefill,
        decode=decode,
        weight_bytes=weights,
        entry_bytes=entry,
        device_bytes=device,
        windows=windows,
    )


def _speeds(base: Base) -> tuple[float, float]:
    """Tokens per second of reading and of writing; what is set up once was paid before."""
    num_entries = min(PREFILL_ENTRIES, base.info.max_positions - DECODE_STEPS)
    ids = np.random.default_rng(0).integers(0, base.info.vocab_size, num_entries).astype(np.uint32)
    seconds = []
    for _ in range(2):
        cache = base.new_cache(num_entries + DECODE_STEPS)
        began = time.perf_counter()
        _forward(base, ids, 0, cache)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    for step in range(DECODE_STEPS):
        _forward(base, ids[step : step + 1], num_entries + step, cache)
    return num_entries / min(seconds), DECODE_STEPS / (time.perf_counter() - began)


def _forward(base: Base, ids: np.ndarray, start: int, cache: object) -> None:
    positions = start + np.arange(float(len(ids)))
    logits = base.forward(base.embed(ids), positions, cache)  # type: ignore[arg-type]
    float(logits[-1, 0])  # a device computes behind our back until somebody reads
