"""What a run says of itself beside its losses: how much arithmetic a batch takes, what the processor could do, and how
gists and their gates are.

Arithmetic is counted as in Chowdhery et al. 2022 ("PaLM", appendix B): 6 N floating-point operations per token, forward
and backward, N the weights that multiply it, plus 12 L H E S for attention (L layers, H heads of E dimensions, windows
of S entries), causal or not. Model FLOPs utilisation is that, divided by time and by the peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.curriculum import Batch

__all__ = [
    "Gauges",
    "core_flops",
    "gate_values",
    "gist_flops",
    "gist_statistics",
    "measured_peak",
    "num_weights",
    "window_flops",
]

PEAK_SIZE = 1024
PEAK_SIZE_GPU = 8192
CPU = torch.device("cpu")
PEAK_SECONDS = 0.3


def _nothing() -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """flops: of one step on a batch, None where nobody counts; probe: figures for the log, asked for when it is
    written; peak_flops: a second, 0 for unknown; peak_source: where that figure comes from."""

    flops: Callable[[Batch], float] | None = None
    probe: Callable[[], Mapping[str, float]] = field(default=_nothing)
    peak_flops: float = 0.0
    peak_source: str = ""


def num_weights(*parts: nn.Module) -> int:
    """Of the modules together."""
    return sum(weight.numel() for part in parts for weight in part.parameters())


def window_flops(batch: Batch, *, body_weights: int, head_weights: int, num_layers: int, attention_width: int) -> float:
    """Of a decoder's step. body_weights: without embeddings and head; attention_width: heads times their dimension."""
    num_rows, num_entries = batch.ids_BT.shape
    num_predicted = batch.ids_BT.numel()
    if batch.mixed is not None:
        num_entries, num_predicted = batch.mixed.sources_BS.shape[1], len(batch.mixed.positions_P)
    per_entry = 6 * body_weights + 12 * num_layers * attention_width * num_entries
    return float(num_rows * num_entries * per_entry + 6 * head_weights * num_predicted)


def core_flops(core: Core, batch: Batch) -> float:
    """Of the core's part of a step."""
    config = core.config
    return window_flops(
        batch,
        body_weights=num_weights(core.shifts, core.layers, core.norm),
        head_weights=num_weights(core.head),
        num_layers=config.num_layers,
        attention_width=config.num_heads * config.head_dim,
    )


def gist_flops(gist_net: GistNet, batch: Batch) -> float:
    """Of GistNet's part: gists of level 1 of every closed block (higher levels add a few per cent at most)."""
    if batch.mixed is None:
        return 0.0
    num_spans, block_tokens, gist_width = (
        batch.mixed.closed_BC.numel(),
        batch.mixed.block_tokens,
        batch.mixed.gist_width,
    )
    per_token = 6 * num_weights(gist_net.place, gist_net.layers, gist_net.pool_key, gist_net.pool_value)
    per_token += 12 * gist_net.config.num_layers * gist_net.config.width * block_tokens
    per_slot = 6 * num_weights(gist_net.pool_out, gist_net.up, gist_net.down)
    return float(num_spans * (block_tokens * per_token + gist_width * per_slot))


def measured_peak(dtype: torch.dtype = torch.bfloat16, *, device: torch.device = CPU) -> tuple[float, str]:
    """Floating-point operations a second of square products in the given precision, and how that was found."""
    size = PEAK_SIZE if device.type == "cpu" else PEAK_SIZE_GPU
    a = torch.ones(size, size, dtype=dtype, device=device)
    float((a @ a)[0, 0])
    began, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < PEAK_SECONDS or not count:
        float((a @ a)[0, 0])  # reading a value waits for the product
        count += 1
    return count * 2.0 * size**3 / seconds, f"measured: {dtype} products of {size} x {size} at the start"


def gist_statistics(gists_ND: Tensor) -> dict[str, float]:
    """Mean norm of gist vectors, and their variance around their mean per dimension (0: all gists are the same)."""
    gists_ND = gists_ND.detach().float()
    return {
        "gist/norm": float(gists_ND.norm(dim=-1).mean()),
        "gist/variance": float(gists_ND.var(dim=0, correction=0).mean()),
    }


def gate_values(core: Core) -> dict[str, float]:
    """Nats that the key of a gist starts with against a token's, mean over the heads of each layer."""
    return {
        name.replace("layers.", "gist_gate/layer_").removesuffix(".attention.gist_bias"): float(weight.detach().mean())
        for name, weight in core.named_parameters()
        if name.endswith("gist_bias")
    }
