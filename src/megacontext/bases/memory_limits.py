"""What is said where a model, or a window of it, does not fit into the memory: the numbers, and a setting that fits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from megacontext.bases.describing import DTYPE_BYTES
from megacontext.errors import DeviceMemoryError
from megacontext.machine import available_bytes, memory_bytes
from megacontext.units import format_bytes

__all__ = ["check_weights_fit", "free_bytes", "weights_explained", "window_explained"]

# How torch says it on a CPU, where it has no exception of its own.
CPU_ALLOCATOR = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
# Of what is free, the share that keys and values may take: the rest is for what a forward needs on the way.
KV_SHARE = 0.5


def check_weights_fit(name: str, device: torch.device, dtype: torch.dtype, *, stored: str, stored_bytes: int) -> None:
    """DeviceMemoryError if the weights, stored in ``stored_bytes`` bytes, cannot fit into the device's memory in this
    precision. Where nobody knows how much there is, nothing is refused."""
    whole = _total_bytes(device)
    name_of = str(dtype).removeprefix("torch.")
    needed = _in_precision(stored_bytes, stored, name_of)
    if whole and needed > whole:
        raise DeviceMemoryError(
            f"{name}: its weights take {format_bytes(needed)} in {name_of}, but {_where(device)} has "
            f"{format_bytes(whole)}; {_smaller(stored, stored_bytes, name_of, whole)}"
        )


@contextmanager
def weights_explained(
    name: str, device: torch.device, dtype: torch.dtype, *, stored: str, stored_bytes: int
) -> Iterator[None]:
    """Within the block memory that runs out is a DeviceMemoryError about weights."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        name_of = str(dtype).removeprefix("torch.")
        free = free_bytes(device)
        raise DeviceMemoryError(
            f"{name}: its weights take {format_bytes(_in_precision(stored_bytes, stored, name_of))} in {name_of}, but "
            f"{_where(device)} has {format_bytes(free)} free; {_smaller(stored, stored_bytes, name_of, free)}"
        ) from error


class _HasRoom(Protocol):
    @property
    def capacity_entries(self) -> int: ...


@contextmanager
def window_explained(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_entries: int,
    entry_bytes: int,
    caches: Iterable[_HasRoom] = (),
) -> Iterator[None]:
    """Within the block memory that runs out is a DeviceMemoryError about a window of so many entries, of which each
    keeps so many bytes, and that was made with the room of its caches, its budget."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        free = free_bytes(device)
        room_entries = sum(cache.capacity_entries for cache in caches)
        made_for = max(num_entries, room_entries)
        fitting = int(free * KV_SHARE / max(1, entry_bytes))
        fewer = 1 << int(math.log2(max(1, min(fitting, made_for // 2))))
        room = f" with room for {room_entries:,}" if room_entries > num_entries else ""
        ways = [f"use budget_entries={fewer} or less"]
        if dtype == torch.float32:
            ways.append("or dtype='bfloat16'")
        raise DeviceMemoryError(
            f"{name}: a window of {num_entries:,} entries{room} keeps {format_bytes(made_for * entry_bytes)} of keys "
            f"and values and needs more to be computed, but {_where(device)} has {format_bytes(free)} free; "
            f"{', '.join(ways)}"
        ) from error


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses now; 0 where the system does not say."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch holds of what is free already
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(CPU_ALLOCATOR.search(str(error)))


def _total_bytes(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else memory_bytes()


def _in_precision(stored_bytes: int, stored: str, dtype: str) -> int:
    return stored_bytes * DTYPE_BYTES.get(dtype, 4) // DTYPE_BYTES.get(stored, 4)


def _smaller(stored: str, stored_bytes: int, dtype: str, room: int) -> str:
    """What to do about weights that have so much room."""
    half = _in_precision(stored_bytes, stored, "bfloat16")
    if dtype == "float32" and half <= room:
        return f"use dtype='bfloat16' ({format_bytes(half)})"
    return "use a smaller model, or a device with more memory"


def _where(device: torch.device) -> str:
    return str(device) if device.type == "cuda" else "the machine"
