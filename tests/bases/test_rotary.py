"""Explicit positions against the model's own rotary embedding, in every layout and scaling that we take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megacontext.bases.rotary import ExplicitRotary
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.testing.tiny_families import ROPE_SCALINGS, family_config, with_rope

STATIC = ("default", "linear", "yarn", "llama3")
MAX_POSITIONS = 256
# As long as the models' windows here: half of it was trained, where that makes a difference.
SCALINGS = {
    name: {**rope, **({"original_max_position_embeddings": 64} if "original_max_position_embeddings" in rope else {})}
    for name, rope in ROPE_SCALINGS.items()
}


def own_rotary(scaling: str) -> nn.Module:
    return LlamaRotaryEmbedding(with_rope(SCALINGS[scaling], max_position_embeddings=MAX_POSITIONS))


def wrap(original: nn.Module, max_positions: int = MAX_POSITIONS) -> ExplicitRotary:
    return ExplicitRotary(original, max_positions=max_positions, dtype=torch.float32, device=torch.device("cpu"))


def at(rotary: ExplicitRotary, positions: npt.NDArray[np.float64], num_entries: int = 1) -> torch.Tensor:
    return torch.stack(rotary.frequencies(num_entries).at(positions)[""])


def plain(rotary: nn.Module, positions: list[int]) -> torch.Tensor:
    return torch.stack(rotary(torch.empty(0), torch.tensor([positions])))


@pytest.mark.parametrize("scaling", STATIC)
def test_whole_positions_within_are_the_models_own_bits(scaling: str) -> None:
    rotary = wrap(own_rotary(scaling))
    for positions in ([0, 1, 2], [200, 3, 255, 3], [100]):
        ours = at(rotary, np.array(positions, dtype=np.float64))
        assert torch.equal(ours, plain(own_rotary(scaling), positions))
    assert torch.equal(plain(rotary, [5]), plain(own_rotary(scaling), [5]))


@pytest.mark.parametrize("scaling", STATIC)
def test_computed_phases_continue_the_models_own(scaling: str) -> None:
    rotary = wrap(own_rotary(scaling), max_positions=16)
    ours = at(rotary, np.arange(250.0))
    torch.testing.assert_close(ours, plain(own_rotary(scaling), list(range(250))), atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_entries", [40, 64, 65, 200, 256, 600])
@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_a_window_rotates_as_the_model_does_at_its_full_length(scaling: str, num_entries: int) -> None:
    rotary = wrap(own_rotary(scaling), max_positions=1024)
    positions = list(range(num_entries))
    whole = plain(own_rotary(scaling), positions)
    assert torch.equal(at(rotary, np.arange(num_entries, dtype=np.float64), num_entries), whole)
    first = at(rotary, np.arange(8.0), num_entries)
    assert torch.equal(first, whole[:, :, :8])
    assert torch.equal(plain(rotary, positions), whole)  # the model alone goes on as it would
    assert torch.equal(at(rotary, np.arange(8.0), num_entries), first)


def test_lengths_that_rotate_alike_share_what_is_computed() -> None:
    longrope, dynamic = (wrap(own_rotary(scaling)) for scaling in ("longrope", "dynamic"))
    assert longrope.frequencies(1) is longrope.frequencies(64)
    assert longrope.frequencies(65) is longrope.frequencies(256)
    assert longrope.frequencies(64) is not longrope.frequencies(65)
    assert dynamic.frequencies(1) is dynamic.frequencies(256)
    assert dynamic.frequencies(300) is not dynamic.frequencies(301)


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_each_kind_of_layer_rotates_by_its_own_frequencies(kind: str) -> None:
    config = family_config("gemma3")
    rotary = wrap(Gemma3RotaryEmbedding(config))
    prepared = rotary.frequencies(1).at(np.array([0.0, 3.0, 100.0]))
    own = Gemma3RotaryEmbedding(config)(torch.empty(0), torch.tensor([[0, 3, 100]]), kind)
    assert torch.equal(torch.stack(prepared[kind]), torch.stack(own))
    with rotary.serving(prepared):
        assert rotary(torch.empty(0), torch.tensor([[9, 9, 9]]), kind) is prepared[kind]
    assert torch.equal(torch.stack(rotary(torch.empty(0), torch.tensor([[0, 3, 100]]), kind)), torch.stack(own))


def test_what_is_served_is_of_the_thread_that_runs() -> None:
    rotary = wrap(own_rotary("default"))
    with rotary.serving(rotary.frequencies(1).at(np.array([7.5]))), ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(plain, rotary, [3]).result(), plain(own_rotary("default"), [3]))


def test_neighbours_stay_apart_where_float32_cannot_tell_them() -> None:
    rotary = wrap(own_rotary("default"))
    far = at(rotary, np.array([2.0**40, 2.0**40 + 1]))
    assert (far[:, :, 0] - far[:, :, 1]).abs().max() > 0.1
    as_float32 = plain(own_rotary("default"), [2**40, 2**40 + 1])
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
    ours = at(rotary, np.arange(40.0))
    torch.testing.assert_close(ours, plain(SideBySide(), list(range(40))), atol=1e-5, rtol=0)


def test_other_layouts_are_found() -> None:
    class Once(SideBySide):
        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            phases = position_ids[..., None] * self.inv_freq
            return phases.cos(), phases.sin()

    class Complex(SideBySide):
        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            phases = position_ids[..., None] * self.inv_freq
            return torch.polar(torch.ones_like(phases), phases)

    positions = [0, 5, 39]
    where = np.array(positions, dtype=np.float64)
    for max_positions in (4, 64):  # computed, and the model's own
        torch.testing.assert_close(at(wrap(Once(), max_positions), where), plain(Once(), positions), atol=1e-5, rtol=0)
        ours = wrap(Complex(), max_positions).frequencies(1).at(where)[""]
        theirs = Complex()(torch.empty(0), torch.tensor([positions]))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_unknown_layouts_and_positions_are_refused() -> None:
    class Odd(SideBySide):
        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cos, sin = super().forward(x, position_ids * 3)
            return cos, sin

    with pytest.raises(BaseModelError, match="laid out in a way that is not known"):
        wrap(Odd())

    class WithoutFrequencies(nn.Module):
        pass

    with pytest.raises(BaseModelError, match="has no frequencies"):
        wrap(WithoutFrequencies())
    for bad in (np.nan, np.inf):
        with pytest.raises(InvalidValueError, match="give finite numbers"):
            at(wrap(own_rotary("default")), np.array([0.0, bad]))
