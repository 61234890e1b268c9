"""Explicit positions against the model's own rotary embedding, in every layout and scaling that we take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megacontext.bases.rotary import ExplicitRotary
from megacontext.errors import BaseModelError, InvalidValueError

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


def own_rotary(rope: dict[str, object]) -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=2, head_dim=16, max_position_embeddings=256, rope_parameters=rope
    )
    return LlamaRotaryEmbedding(config)


def wrap(original: nn.Module, max_positions: int = 256) -> ExplicitRotary:
    return ExplicitRotary(original, max_positions=max_positions, dtype=torch.float32, device=torch.device("cpu"))


def cos_sin(rotary: nn.Module, position_ids: torch.Tensor) -> torch.Tensor:
    return torch.stack(rotary(torch.empty(0), position_ids))


@pytest.mark.parametrize("rope", [DEFAULT, LLAMA3, YARN])
def test_whole_positions_within_are_the_models_own_bits(rope: dict[str, object]) -> None:
    rotary = wrap(own_rotary(rope))
    for positions in ([0, 1, 2], [200, 3, 255, 3], [100]):
        ours = cos_sin(rotary, rotary.position_ids(np.array(positions, dtype=np.float64)))
        assert torch.equal(ours, cos_sin(own_rotary(rope), torch.tensor([positions])))
    assert torch.equal(cos_sin(rotary, torch.tensor([[5]])), cos_sin(own_rotary(rope), torch.tensor([[5]])))


@pytest.mark.parametrize("rope", [DEFAULT, LLAMA3, YARN])
def test_computed_phases_continue_the_models_own(rope: dict[str, object]) -> None:
    rotary = wrap(own_rotary(rope), max_positions=16)
    ours = cos_sin(rotary, rotary.position_ids(np.arange(250.0)))
    torch.testing.assert_close(ours, cos_sin(own_rotary(rope), torch.arange(250)[None]), atol=1e-4, rtol=0)


def test_neighbours_stay_apart_where_float32_cannot_tell_them() -> None:
    rotary = wrap(own_rotary(DEFAULT))
    far = cos_sin(rotary, rotary.position_ids(np.array([2.0**40, 2.0**40 + 1])))
    assert (far[:, :, 0] - far[:, :, 1]).abs().max() > 0.1
    as_float32 = cos_sin(own_rotary(DEFAULT), torch.tensor([[2**40, 2**40 + 1]]))
    assert (as_float32[:, :, 0] - as_float32[:, :, 1]).abs().max() == 0


class SideBySide(nn.Module):
    """Rotated pairs next to each other, as Cohere and GLM have them."""

    def __init__(self) -> None:
        super().__init__()
        self.inv_freq = 1.0 / 10000.0 ** (torch.arange(0, 16, 2) / 16)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        phases = (position_ids[..., None] * self.inv_freq).repeat_interleave(2, dim=-1)
        return phases.cos(), phases.sin()


def test_interleaved_layout_is_found() -> None:
    rotary = wrap(SideBySide(), max_positions=8)
    ours = cos_sin(rotary, rotary.position_ids(np.arange(40.0)))
    torch.testing.assert_close(ours, cos_sin(SideBySide(), torch.arange(40)[None]), atol=1e-5, rtol=0)


def test_unknown_layouts_and_positions_are_refused() -> None:
    class Odd(SideBySide):
        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cos, sin = super().forward(x, position_ids * 3)
            return cos, sin

    with pytest.raises(BaseModelError, match="laid out in a way that is not known"):
        wrap(Odd())
    for bad in (np.nan, np.inf):
        with pytest.raises(InvalidValueError, match="give finite numbers"):
            wrap(own_rotary(DEFAULT)).position_ids(np.array([0.0, bad]))
