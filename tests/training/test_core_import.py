"""A core that begins as a plain Qwen3 model says what the model said, and what does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gaussian_rope import frequencies
from megacontext.training.core_import import core_config_of, load_model
from megacontext.training.core_model import hidden_states


@pytest.fixture
def model(tmp_path: Path) -> Qwen3ForCausalLM:
    """A tiny Qwen3 with weights of a trained one's size, saved in ``tmp_path``."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                norm.weight.uniform_(0.5, 2.0)
                norm.weight[-1] = 0.0  # the half of the slowest pair that a core does not have
    model.save_pretrained(tmp_path)
    return model


def test_the_core_says_what_the_model_said(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    with torch.no_grad():  # without its other half, the slowest pair turns too little to matter here
        core = Core(core_config_of(tmp_path))
        load_model(core, tmp_path)
        ids_BT = torch.randint(0, 300, (2, 100))
        expected_BTV = model(ids_BT).logits
        given_BTV = core.logits(hidden_states(core, ids_BT))
    torch.testing.assert_close(given_BTV, expected_BTV, atol=2e-3, rtol=2e-3)


def test_gists_are_read_from_the_first_step_on(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    core = Core(core_config_of(tmp_path))
    load_model(core, tmp_path)
    assert all((layer.attention.gist_bias == 0).all() for layer in core.layers)


def test_another_shape_is_refused(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    core = Core(replace(core_config_of(tmp_path), num_layers=3))
    with pytest.raises(InvalidValueError, match=r"num_layers is 3, but weights of .* need 2"):
        load_model(core, tmp_path)


def test_a_core_may_learn_sigma_and_turn_its_slowest_pairs_more_slowly(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    plain = core_config_of(tmp_path)
    pairs = plain.rotary_dims // 2
    slow = replace(plain, learns_sigma=True, num_slow_bands=1, rotary_base=plain.rotary_base ** ((pairs - 1) / pairs))
    core = Core(slow)
    load_model(core, tmp_path)
    assert core.log_sigma_scale.requires_grad
    before_F = frequencies(plain.rotary_dims, base=plain.rotary_base)
    after_F = frequencies(slow.rotary_dims, base=slow.rotary_base, num_slow_bands=1)
    torch.testing.assert_close(after_F[:-1], before_F[:-1])
    assert after_F[-1] < before_F[-1] / 1e6
    with pytest.raises(InvalidValueError, match=r"rotary_base is .*, but weights of .* need"):
        load_model(Core(replace(slow, rotary_base=plain.rotary_base)), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("model_type", "llama"), ("tie_word_embeddings", True), ("rms_norm_eps", 1e-5)]
)
def test_another_architecture_is_refused(model: Qwen3ForCausalLM, tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InvalidValueError, match=str(value)):
        core_config_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("head_dim", None), ("vocab_size", "300"), ("rope_parameters", {"rope_type": "default"})]
)
def test_a_shape_that_is_not_told_is_named(model: Qwen3ForCausalLM, tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    said = {"rope_parameters": "rope_theta is None; choose a finite number"}.get(
        name, f"{name} is .*; choose a whole n"
    )
    with pytest.raises(InvalidValueError, match=rf"config\.json: {said}"):
        core_config_of(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"holds no config\.json"):
        core_config_of(tmp_path)


def test_weights_that_are_no_numbers_are_refused(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(CorruptionError, match=r"model\.norm\.weight of .*model\.safetensors holds values that are no"):
        load_model(Core(core_config_of(tmp_path)), tmp_path)


def test_weights_that_were_cut_off_are_refused(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    core = Core(core_config_of(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptionError, match="is damaged"):
        load_model(core, tmp_path)
    path.unlink()
    with pytest.raises(InvalidValueError, match=r"holds no model\.safetensors"):
        load_model(core, tmp_path)
