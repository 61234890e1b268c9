"""Where an entry stands, read from its state: an auxiliary task that asks a core to know absolute places.

Attention with rotary phases sees differences of places only; whether it helps to know the places themselves is asked by
this head. It says an index and how sure it is of it, and pays for both as the negative log-likelihood of a normal
distribution (Nix and Weigend 1994; Kendall and Gal 2017, "What uncertainties do we need in Bayesian deep learning?"),
so that what it says of its error is calibrated, and can be held against the sigma that a gist is shown with.

Shape legend: B rows, S entries of a window, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacontext.nets.norm import rms_normed

__all__ = ["IndexHead"]

UNIT = 1024.0  # tokens; what the head counts in
LOG_SIGMAS = (-7.0, 3.0)  # of a unit: a token to 20,000
BEGINNING = (0.5, -1.2)  # says the 512th token, give or take 300


class IndexHead(nn.Module):
    """From states of the residual stream to an index and its standard deviation, in tokens. Used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, 2)
        nn.init.zeros_(self.read.weight)
        with torch.no_grad():
            self.read.bias.copy_(torch.tensor(BEGINNING))

    def forward(self, states_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Index and standard deviation [B, S] float32, in tokens from the beginning of the row."""
        normed_BSD = rms_normed(states_BSD.float())
        said_BS2 = functional.linear(normed_BSD, self.read.weight.float(), self.read.bias.float())
        return UNIT * said_BS2[..., 0], UNIT * said_BS2[..., 1].clamp(*LOG_SIGMAS).exp()

    def loss(self, states_BSD: Tensor, index_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean nats of the true indices up to a constant, and what was said [B, S], detached."""
        said_BS, sigma_BS = self(states_BSD)
        missed_BS = (said_BS - index_BS) / sigma_BS
        nats_BS = 0.5 * missed_BS.square() + torch.log(sigma_BS / UNIT)
        return nats_BS.mean(), said_BS.detach(), sigma_BS.detach()
