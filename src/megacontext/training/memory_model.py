"""A core that learns to read gists, together with the net that makes them.

B rows, T positions, C closed blocks, r gist width, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.index_head import IndexHead
from megacontext.nets.reconstruction import Reconstructor
from megacontext.training.core_model import compile_core, window_loss
from megacontext.training.cotrained_lens import CotrainedLens
from megacontext.training.curriculum import Batch
from megacontext.training.mixed import MixedWindows, closed_gists, entry_indices, mixed_loss
from megacontext.training.objective import CHUNK_STEP, cross_entropy

__all__ = ["MemoryConfig", "MemoryLearner"]


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """How memory is learned. reconstruction: weight of the loss that asks for a span's tokens from its gist alone;
    reconstructed_tokens: how many tokens of a batch it asks for; frozen_core: teach GistNet alone; index: weight of the
    loss that asks every entry's state for its place (0: not asked)."""

    reconstruction: float = 0.5
    reconstructed_tokens: int = 1024
    reconstructor_width: int = 512
    frozen_core: bool = False
    index: float = 0.0


class MemoryLearner(nn.Module):
    """Core, GistNet and the reconstructor that keeps gists honest, as one trainable whole; with a lens, if there is one
    to learn."""

    def __init__(
        self, core: Core, gist_net: GistNet, config: MemoryConfig, *, lens: CotrainedLens | None = None
    ) -> None:
        super().__init__()
        if gist_net.config.width != core.config.width:
            raise InvalidValueError(
                f"gist_net has width {gist_net.config.width}, but the core {core.config.width}; give both the same"
            )
        self.config = config
        self.core = core
        self.gist_net = gist_net
        self.reconstructor = Reconstructor(core.config.width, mlp_width=config.reconstructor_width).to(
            core.embed_tokens.weight.dtype
        )
        self.index_head = IndexHead(core.config.width).to(core.embed_tokens.weight.dtype) if config.index else None
        self.index_figures: dict[str, Tensor] = {}
        self.lens = lens
        self.lens_net = None if lens is None else lens.net
        if config.frozen_core:
            core.requires_grad_(False)

    def learned_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and weights that training moves."""
        return ((name, weight) for name, weight in self.named_parameters() if weight.requires_grad)

    def compile_parts(self) -> None:
        """Compile what runs often in few shapes, and GistNet's layers once for any number of spans."""
        compile_core(self.core)
        for layer in self.gist_net.layers:
            layer.compile(dynamic=True)

    def loss(self, batch: Batch, *, compiled: bool = True) -> tuple[Tensor, Tensor]:
        """The loss to differentiate, and that of every position [B, T]."""
        if batch.mixed is None:
            return window_loss(self.core, *batch.tensors, compiled=compiled)
        if batch.kind.gists is not None and batch.kind.gists.spans_only:
            return self._spans_loss(batch, batch.mixed, compiled=compiled)
        loss, losses_BT, gists_BCrD, tapped_BSD = mixed_loss(
            self.core,
            self.gist_net,
            batch.mixed,
            batch.tensors,
            compiled=compiled,
            tap_layer=self.core.config.num_layers // 2 if self._taps(batch) else None,
        )
        if tapped_BSD is not None and self.index_head is not None:
            loss = loss + self.config.index * self._index(tapped_BSD, batch.mixed, num_tokens=batch.ids_BT.shape[1])
        if tapped_BSD is not None and self.lens is not None and batch.moments:
            loss = loss + self.lens.loss(batch, losses_BT, gists_BCrD, tapped_BSD)
        if self.config.reconstruction:
            block_tokens = batch.mixed.block_tokens
            blocks_BNK = batch.ids_BT.view(len(batch.ids_BT), -1, block_tokens)
            rows_B1 = torch.arange(len(batch.ids_BT), device=batch.ids_BT.device)[:, None]
            spans_NK = blocks_BNK[rows_B1, batch.mixed.closed_BC].flatten(0, 1)
            loss = loss + self.config.reconstruction * self._reconstruction(
                gists_BCrD.flatten(0, 1), spans_NK, compiled=compiled
            )
        return loss, losses_BT

    def _taps(self, batch: Batch) -> bool:
        return self.index_head is not None or (self.lens is not None and bool(batch.moments))

    def _index(self, tapped_BSD: Tensor, windows: MixedWindows, *, num_tokens: int) -> Tensor:
        """Nats of the places of all entries; keeps the errors made, and those expected, of gists and of tokens."""
        assert self.index_head is not None
        index_BS = entry_indices(windows, num_tokens=num_tokens)
        loss, said_BS, sigma_BS = self.index_head.loss(tapped_BSD, index_BS)
        is_gist_BS = windows.sources_BS >= num_tokens
        self.index_figures = {
            f"index/{kind}_{what}": squares_BS[mask_BS].mean().sqrt()
            for kind, mask_BS in (("gists", is_gist_BS), ("tokens", ~is_gist_BS))
            for what, squares_BS in (("missed", (said_BS - index_BS).square()), ("expected", sigma_BS.square()))
        }
        return loss

    def _spans_loss(self, batch: Batch, windows: MixedWindows, *, compiled: bool) -> tuple[Tensor, Tensor]:
        """GistNet alone: every token of every block from the block's gist. The core's tables are used, not moved."""
        with torch.no_grad():
            entries_BTD = self.core.embed(batch.ids_BT)
        gists_NrD = closed_gists(self.gist_net, windows, entries_BTD).flatten(0, 1)
        hidden_ND = self.reconstructor(gists_NrD, span_tokens=windows.block_tokens).flatten(0, 1)
        loss, losses_N = cross_entropy(
            hidden_ND,
            self.core.head.weight.detach(),
            batch.ids_BT.flatten(),
            batch.weights_BT.flatten(),
            compiled=compiled,
        )
        return loss, losses_N.view_as(batch.ids_BT)

    def _reconstruction(self, gists_NrD: Tensor, spans_NK: Tensor, *, compiled: bool) -> Tensor:
        """Nats per token of some spans, evenly spread over the batch, from their gists alone."""
        num_spans, span_tokens = spans_NK.shape
        wanted = min(num_spans, max(1, self.config.reconstructed_tokens // span_tokens))
        rows = torch.arange(wanted, device=gists_NrD.device) * num_spans // wanted
        hidden_ND = self.reconstructor(gists_NrD[rows], span_tokens=span_tokens).flatten(0, 1)
        targets_N = spans_NK[rows].flatten()
        spare = -len(targets_N) % CHUNK_STEP
        weights_N = nn.functional.pad(torch.ones(len(targets_N), device=targets_N.device), (0, spare))
        loss, _ = cross_entropy(
            nn.functional.pad(hidden_ND, (0, 0, 0, spare)),
            self.core.head.weight,
            nn.functional.pad(targets_N, (0, spare)),
            weights_N,
            compiled=compiled,
        )
        return loss
