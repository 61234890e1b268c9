"""All that rotates in a decoder: one module for all layers, or one for each base of frequencies that its layers have.

transformers' models compute rotary values once a forward, at model level: by ``rotary_emb``, or, where layers differ in
their base (Granite's with sliding windows), by each of ``rotary_embs``, beside which ``rotary_emb`` is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from megacontext.bases.rotary import ExplicitRotary, Frequencies

__all__ = ["DecoderRotary", "is_taken_over"]


class DecoderRotary:
    """Takes a decoder's rotary modules over, once for all bases that share the model: outside ``serving`` they compute
    what they did. max_positions: what the model was made for."""

    def __init__(self, decoder: Any, *, max_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        explicit = partial(ExplicitRotary, max_positions=max_positions, dtype=dtype, device=device)
        several: Any = getattr(decoder, "rotary_embs", ())
        if not is_taken_over(decoder):
            for number, module in enumerate(several):
                several[number] = explicit(module, name=f"{number} ")
            if not len(several):
                decoder.rotary_emb = explicit(decoder.rotary_emb)
        self._modules: list[ExplicitRotary] = [*several] or [decoder.rotary_emb]
        self._joined: dict[tuple[Frequencies, ...], Frequencies] = {}

    def frequencies(self, num_entries: int) -> Frequencies:
        """What rotates a window of up to so many entries."""
        parts = tuple(module.frequencies(num_entries) for module in self._modules)
        if len(parts) == 1:
            return parts[0]
        if parts not in self._joined:
            self._joined[parts] = Frequencies.joined(parts)
        return self._joined[parts]

    def serving(self, prepared: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Within the block, in this thread, every forward of the model rotates by these values."""
        return self._modules[0].serving(prepared)


def is_taken_over(decoder: Any) -> bool:
    """Whether a base has a decoder's rotary modules already."""
    modules = (decoder.rotary_emb, *getattr(decoder, "rotary_embs", ()))
    return any(isinstance(module, ExplicitRotary) for module in modules)
