from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.testing.fake_base import byte_codec, tiny_base


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_turned_keys_are_those_of_the_other_positions(family):
    base = tiny_base(family)
    ids = np.arange(9, dtype=np.uint32)
    here, there = base.new_cache(9), base.new_cache(9)
    base.forward(base.embed(ids), np.arange(9.0), here)
    base.forward(base.embed(ids), np.arange(9.0) + 1000.5, there)
    base._turning.turn(here, here.frequencies.omegas_F, np.full(9, 1000.5))
    for ours, theirs in zip(here.layer_keys(), there.layer_keys(), strict=True):
        torch.testing.assert_close(ours[:, :, :9], theirs[:, :, :9], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("num_turns", [4, 64])
def test_in_bfloat16_the_roundings_of_many_turns_add_up_like_a_random_walk(num_turns):
    """A turn rounds each value by at most half a step, which is 2**-9 to 2**-8 of it, up as often as down: in the mean
    square by less than 2**-8 / sqrt(3), over all mantissas by less than 2**-9. Independent errors grow with the root of
    their number; had all of them one direction, 64 would reach eight times the bound."""
    base = tiny_base("qwen3", dtype="bfloat16")
    ids = np.arange(64, dtype=np.uint32)
    stepwise, direct = base.new_cache(64), base.new_cache(64)
    for cache in (stepwise, direct):
        base.forward(base.embed(ids), np.arange(64.0), cache)
    distances = np.random.default_rng(0).integers(1, 65, num_turns).astype(np.float64)
    for distance in distances:
        base._turning.turn(stepwise, stepwise.frequencies.omegas_F, np.full(64, distance))
    base._turning.turn(direct, direct.frequencies.omegas_F, np.full(64, distances.sum()))
    for ours, theirs in zip(stepwise.layer_keys(), direct.layer_keys(), strict=True):
        error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
        assert 0 < error < (num_turns + 1) ** 0.5 * 2**-9


def test_the_layout_of_a_model_is_found_by_looking():
    assert not any(turning.is_interleaved for turning in tiny_base("qwen3")._turning.layers.values())
    config = CohereConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    interleaved = HuggingFaceBase(model, byte_codec(), tiny_base().info)
    assert interleaved._turning is not None
    assert [turning.is_interleaved for turning in interleaved._turning.layers.values()] == [True, True]


def test_a_model_whose_keys_turn_in_no_known_way_cannot_patch(monkeypatch):
    monkeypatch.setattr("megacontext.bases.key_turning.LayerTurning.turned", lambda self, kept, cos, sin: kept + 1)
    assert not tiny_base().can_patch
