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
    base._turning.turn(here, np.full(9, 1000.5))
    for ours, theirs in zip(here.layer_keys(), there.layer_keys(), strict=True):
        torch.testing.assert_close(ours[:, :, :9], theirs[:, :, :9], atol=1e-3, rtol=1e-3)


def test_the_layout_of_a_model_is_found_by_looking():
    assert not tiny_base("qwen3")._turning.is_interleaved
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
    assert interleaved._turning.is_interleaved


def test_a_model_whose_keys_turn_in_no_known_way_cannot_patch(monkeypatch):
    monkeypatch.setattr("megacontext.bases.key_turning.KeyTurning._turned", lambda self, keys, cos, sin: keys + 1)
    assert not tiny_base().can_patch
