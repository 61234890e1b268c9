"""How the next token is drawn from logits: greedy unless a temperature is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megacontext.errors import BaseModelError
from megacontext.values import number
from megacontext.values import seed as valid_seed

if TYPE_CHECKING:
    import torch

__all__ = ["Sampler", "SamplingConfig", "check_number"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """temperature: 0 takes the likeliest token. top_p: draw among the likeliest tokens that hold this share of the
    probability. seed: the same seed and window give the same tokens; None draws a fresh one."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", number("temperature", self.temperature, least=0))
        object.__setattr__(self, "top_p", number("top_p", self.top_p, above=0, most=1))
        object.__setattr__(self, "seed", valid_seed(self.seed))


class Sampler:
    """Draws tokens one after another; holds the random state of one generation."""

    def __init__(self, config: SamplingConfig) -> None:
        import torch

        self._config = config
        self._generator = torch.Generator(device="cpu")
        if config.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(config.seed)

    def draw(self, logits_V: torch.Tensor) -> int:
        """The next token id from float32 logits [V]; BaseModelError if they hold NaN or are infinitely large."""
        import torch

        if self._config.temperature == 0.0:
            token_id = torch.argmax(logits_V)[None]
            # NaN is the largest of all; both in one copy from the device
            largest, likeliest = torch.cat([logits_V.gather(0, token_id).double(), token_id.double()]).tolist()
            check_number(largest)
            return int(likeliest)
        # drawn on the CPU, so that a seed means the same on every device; the likeliest is moved to 0 before a
        # temperature near 0 could make it infinite
        logits_V = logits_V.detach().cpu().double()
        check_number(logits_V.max().item())
        probs_V = torch.softmax((logits_V - logits_V.max()) / self._config.temperature, dim=-1)
        if self._config.top_p < 1.0:
            probs_V = _nucleus(probs_V, self._config.top_p)
        return int(torch.multinomial(probs_V, 1, generator=self._generator).item())


def check_number(value: float) -> None:
    """BaseModelError for NaN and infinity where a model's logits, or what is made of them, reach the host."""
    if not math.isfinite(value):
        raise BaseModelError(
            f"the base model's logits hold {value}; load it with dtype='float32' (or 'bfloat16' instead of 'float16'), "
            "and if it is that already copy the model again: its weights may be damaged"
        )


def _nucleus(probs_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero everything below the smallest set of likeliest tokens that reaches ``top_p``."""
    sorted_V, order_V = probs_V.sort(descending=True, stable=True)
    before_V = sorted_V.cumsum(-1) - sorted_V
    kept_V = sorted_V.masked_fill(before_V >= top_p, 0.0)
    return probs_V.new_zeros(probs_V.shape).scatter(0, order_V, kept_V)
