"""What a gist still knows of its span: every token read back from the vectors alone, all at once.

Not autoregressive on purpose: what it says of a token cannot come from the token before. Which part of a vector holds
a token depends on the token's place, so places multiply what is read rather than being added to it: after equally many
steps that leaves fewer nats, most of all on digits. Used in training, so that gists hold their tokens before a core can
read them, and as a measure; not shipped.

Shape legend: N gists, r vectors of a gist, K tokens of its span, D width, M hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.errors import InvalidValueError
from megacontext.nets.norm import NORM_EPSILON

__all__ = ["Reconstructor"]


class Reconstructor(nn.Module):
    """From gist vectors to hidden states, one per token of the span, for the core's own output embedding.

    max_tokens: places that it learns, so at most as many tokens are read from one vector; checkpoints hold as many.
    """

    def __init__(self, width: int, *, mlp_width: int, max_tokens: int = 128) -> None:
        super().__init__()
        self.width = width
        self.place = nn.Parameter(0.5 * torch.randn(max_tokens, width))
        self.place_gain = nn.Parameter(torch.randn(max_tokens, mlp_width))
        self.look = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, gists_NrD: Tensor, *, span_tokens: int) -> Tensor:
        """Hidden states [N, K, D]: each token is read from the vector whose share of the span it lies in; errors as in
        ``check_share``."""
        gist_width = gists_NrD.shape[1]
        self.check_share(span_tokens=span_tokens, gist_width=gist_width)
        places_K = torch.arange(span_tokens, device=gists_NrD.device)
        slots_K = places_K * gist_width // span_tokens
        within_K = places_K - (slots_K * span_tokens + gist_width - 1) // gist_width
        normed_NrD = functional.rms_norm(gists_NrD, (self.width,), eps=NORM_EPSILON)
        hidden_NKM = functional.silu(self.up(normed_NrD))[:, slots_K] * self.place_gain[within_K]
        x_NKD = self.down(hidden_NKM) + self.look(normed_NrD)[:, slots_K] + self.place[within_K]
        return functional.rms_norm(x_NKD, (self.width,), eps=NORM_EPSILON)

    def check_share(self, *, span_tokens: int, gist_width: int) -> None:
        """InvalidValueError if a vector of such gists stands for more tokens than there are places."""
        most, share = len(self.place), -(-span_tokens // gist_width)
        if share > most:
            raise InvalidValueError(
                f"shape [{span_tokens}, {gist_width}] has {share} tokens a vector, and at most {most} are read back; "
                f"give blocks of at most {most * gist_width} tokens, or wider gists"
            )
