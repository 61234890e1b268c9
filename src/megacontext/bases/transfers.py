"""From the host to the device: what a step needs of both goes over in one copy.

However small, a copy to an accelerator costs a launch of its own, and many of them cost a refocus more than its
arithmetic. So whoever needs several arrays asks for them together. A CPU shares the memory: nothing is copied.

``benchmarks/operations.py`` counts the calls of ``on_device``; a test counts the copies to a device that is made up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["on_device"]

ALIGNED_BYTES = 16  # where each array begins in the copy: a multiple of every element's size


def on_device(device: torch.device, *arrays: npt.NDArray[Any]) -> tuple[torch.Tensor, ...]:
    """Arrays as tensors of the same shapes and kinds, in one copy at most. On a CPU they may share memory: change
    neither."""
    writable = [array if array.flags.writeable else array.copy() for array in arrays]
    if device.type == "cpu":
        return tuple(map(torch.from_numpy, writable))
    return _copied(device, writable)


def _copied(device: torch.device, arrays: list[npt.NDArray[Any]]) -> tuple[torch.Tensor, ...]:
    """What is a single number the device fills in itself, which takes no copy; the others lie in one buffer."""
    packed = [array for array in arrays if array.size > 1]
    starts = np.cumsum([0, *(-(-array.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES for array in packed)]).tolist()
    host = np.zeros(starts[-1], dtype=np.uint8)
    for start, array in zip(starts, packed, strict=False):
        host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = torch.from_numpy(host).to(device) if packed else None
    begins = iter(starts)
    tensors = []
    for array in arrays:
        kind = torch.from_numpy(array).dtype
        if array.size <= 1:
            tensors.append(torch.full(array.shape, array.item() if array.size else 0, dtype=kind, device=device))
            continue
        assert there is not None
        start = next(begins)
        tensors.append(there[start : start + array.nbytes].view(kind).view(array.shape))
    return tuple(tensors)
