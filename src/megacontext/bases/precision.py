"""The precision that a model computes in: what was asked for, or what the device multiplies fast.

A processor without bfloat16 units takes every bfloat16 product apart: the bundled core computes a window of 1,024
entries in 583 ms there and in 132 ms in float32, and gists five times as fast (EPYC of the third generation).
"""

from __future__ import annotations

import torch
from torch import nn

from megacontext.machine import memory_bytes

__all__ = ["cast_weights", "chosen_dtype", "multiplies_bfloat16", "working_dtype"]

# What processors call their bfloat16 units: x86 (tiles, vectors), ARM.
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
# Widened weights take at most this part of the machine's memory, else a model that fitted would no longer do so.
MOST_MEMORY = 0.25
WIDENED = 2  # float32 against bfloat16


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(torch.cpu.get_capabilities().get(unit) for unit in BFLOAT16_UNITS)


def working_dtype(device: torch.device) -> torch.dtype:
    """What weights are computed with where float32 masters are kept: bfloat16 where there are units for it."""
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def cast_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with weights of a precision; what it only computes with, such as rotary frequencies, keeps its own."""
    for weight in module.parameters():
        weight.data = weight.data.to(dtype)
    return module


def chosen_dtype(asked: str, stored: str, device: torch.device, *, stored_bytes: int) -> torch.dtype:
    """The precision of a model whose files hold so many bytes of weights as ``stored``.

    ``auto`` takes bfloat16 on a GPU that has units for it, and on a CPU that has them for weights stored so. Elsewhere
    weights are widened to float32, unless that takes too much of the memory. float16 has no fast path on a CPU.
    """
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    if device.type == "cpu":
        widens = stored_bytes * WIDENED <= MOST_MEMORY * memory_bytes()
        stays = stored == "bfloat16" and (multiplies_bfloat16(device) or not widens)
        return torch.bfloat16 if stays else torch.float32
    return working_dtype(device)
