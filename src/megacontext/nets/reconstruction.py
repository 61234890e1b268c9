"""What a gist still knows of its span: every token read back from the vectors alone, all at once.

Not autoregressive on purpose: what it says of a token cannot come from the token before. Used in training, so that
gists hold their tokens before a core can read them, and as a measure; not shipped.

Shape legend: N gists, r vectors of a gist, K tokens of its span, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.nets.core import NORM_EPSILON

__all__ = ["Reconstructor"]


class Reconstructor(nn.Module):
    """From gist vectors to hidden states, one per token of the span, for the core's own output embedding."""

    def __init__(self, width: int, *, mlp_width: int, max_tokens: int = 128) -> None:
        super().__init__()
        self.width = width
        self.place = nn.Parameter(0.5 * torch.randn(max_tokens, width))
        self.look = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, gists_NrD: Tensor, *, span_tokens: int) -> Tensor:
        """Hidden states [N, K, D]: each token is read from the vector whose share of the span it lies in."""
        gist_width = gists_NrD.shape[1]
        slots_K = torch.arange(span_tokens) * gist_width // span_tokens
        within_K = torch.arange(span_tokens) - (slots_K * span_tokens + gist_width - 1) // gist_width
        x_NKD = self.look(gists_NrD)[:, slots_K] + self.place[within_K]
        hidden = functional.gelu(
            self.up(functional.rms_norm(x_NKD, (self.width,), eps=NORM_EPSILON)), approximate="tanh"
        )
        return functional.rms_norm(x_NKD + self.down(hidden), (self.width,), eps=NORM_EPSILON)
