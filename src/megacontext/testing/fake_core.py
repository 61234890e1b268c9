"""A tiny native core with fixed random weights behind the ``Base`` port, with a tiny GistNet and LensNet."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from megacontext.bases.native import NativeBase
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig, LensNetConfig
from megacontext.ports.base import BaseInfo
from megacontext.testing.fake_base import DType, byte_codec

__all__ = ["TINY_CORE", "TINY_GIST_NET", "TINY_LENS_NET", "tiny_core_base"]

TINY_CORE = CoreConfig(
    vocab_size=256, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_width=64, rotary_dims=8
)
TINY_GIST_NET = GistNetConfig(width=32, num_layers=1, num_heads=2, mlp_width=32, num_pool_heads=4, pool_head_dim=8)

TINY_LENS_NET = LensNetConfig(width=32, num_heads=2, key_dim=8, mlp_width=16)


def tiny_core_base(*, dtype: DType = "float32", seed: int = 0) -> NativeBase:
    """A core of 2 layers over the byte codec. Equal arguments give equal weights; no matrix is left at its silent
    start, so that logits depend on everything they should."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        core, gist_net = Core(TINY_CORE), GistNet(TINY_GIST_NET)
        _speak(core)
        _speak(gist_net)
        lens_net = LensNet(TINY_LENS_NET)  # last: whatever a lens is made of, core and gists stay the same
    weights = core.embed_tokens.weight.detach().numpy().tobytes()
    info = BaseInfo(
        name="tiny-core",
        revision=str(seed),
        fingerprint=hashlib.sha256(weights).hexdigest(),
        dim=TINY_CORE.width,
        vocab_size=TINY_CORE.vocab_size,
        max_positions=TINY_CORE.max_positions,
        dtype=dtype,
        device="cpu",
        question_template="\nQuestion: {question}\nAnswer:",
        stop_token_ids=(),
        positions="timeline",
        gist_net=f"tiny{seed}",
        has_lens=True,
    )
    kind = getattr(torch, dtype)
    return NativeBase(core.to(kind), byte_codec(), info, gist_net=gist_net.to(kind), lens_net=lens_net)


def _speak(net: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim == 2 and "embed_tokens" not in name:
                weight.normal_(std=1.5 * weight.shape[-1] ** -0.5)
