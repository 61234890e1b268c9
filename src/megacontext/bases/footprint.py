"""How much memory a loaded base takes: its weights, and each entry of a window, as they really lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from megacontext.bases.kv_cache import KVCache
from megacontext.ports.base import Base

__all__ = ["entry_bytes", "weight_bytes"]


def weight_bytes(*parts: nn.Module | None) -> int:
    """Bytes of the parameters and buffers of modules, shared ones once."""
    tensors: dict[int, torch.Tensor] = {}
    for part in parts:
        for tensor in [] if part is None else [*part.parameters(), *part.buffers()]:
            tensors[tensor.data_ptr()] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def entry_bytes(base: Base) -> int:
    """Bytes of all that a window of this base keeps of one entry, found by running one."""
    cache = base.new_cache(1)
    base.forward(base.embed(np.zeros(1, dtype=np.uint32)), np.zeros(1), cache)
    assert isinstance(cache, KVCache)
    return cache.bytes_per_entry
