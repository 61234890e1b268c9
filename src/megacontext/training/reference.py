"""The reference model: an ordinary Qwen3 decoder, small enough to ship and to train on one processor core; or a Llama,
or a Mixtral, for measurements on other families.

B rows, T positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from megacontext.bases.precision import cast_weights
from megacontext.training.objective import cross_entropy
from megacontext.values import choice

__all__ = ["Decoder", "ReferenceConfig", "build_reference", "compile_layers", "hidden_states", "window_loss"]

Decoder: TypeAlias = Qwen3ForCausalLM | LlamaForCausalLM | MixtralForCausalLM
FAMILIES: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
# A Mixtral of the same width reads each token by two of four experts, each half as wide as another model's layer.
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "grouped_mm"}


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """The shape of the decoder; everything else about it is its family's own configuration."""

    family: str = "qwen3"
    vocab_size: int = 4096
    width: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    mlp_width: int = 768
    max_positions: int = 4096
    rope_theta: float = 1e5  # 14 of the 32 rotary pairs turn less than once in 4,096 positions: nearly free of position
    qk_gain: float = 1.5  # of Qwen3's query and key norms; a Llama has none
    embedding_std: float = 0.5

    def __post_init__(self) -> None:
        choice("family", self.family, tuple(FAMILIES))


def build_reference(config: ReferenceConfig, *, seed: int) -> Decoder:
    """A fresh model in bfloat16, seeded.

    Output projections start at zero (each layer begins as the identity), the gains of the query and key norms at
    `qk_gain` (sharp attention from the start: copying circuits form sooner), embeddings at the scale that the
    layers' outputs grow to.
    """
    torch.manual_seed(seed)
    config_class, model_class = FAMILIES[config.family]
    has_experts = config.family == "mixtral"
    model: Decoder = model_class(
        config_class(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.mlp_width // 2 if has_experts else config.mlp_width,
            max_position_embeddings=config.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            initializer_range=config.width**-0.5,
            **(EXPERTS if has_experts else {}),
        )
    )
    nn.init.normal_(model.model.embed_tokens.weight, std=config.embedding_std)
    nn.init.normal_(model.lm_head.weight, std=0.01)
    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.experts.down_proj if has_experts else layer.mlp.down_proj.weight)
        if config.family == "qwen3":
            nn.init.constant_(layer.self_attn.q_norm.weight, config.qk_gain)
            nn.init.constant_(layer.self_attn.k_norm.weight, config.qk_gain)
    cast_weights(model, torch.bfloat16)
    return model


def compile_layers(model: Decoder) -> None:
    """Compile the decoder layer once for all layers, per shape: the compile time of one layer, not of the model."""
    for layer in model.model.layers:
        layer.compile(dynamic=False)


def hidden_states(model: Decoder, ids_BT: Tensor) -> Tensor:
    """The model's own layers on raw tokens at positions 0..T-1, causal; returns [B, T, D] after the final norm.

    Equal to `model.model(ids_BT).last_hidden_state` (a test compares them); spelled out so that layers compile alone
    and no mask is built.
    """
    inner = model.model
    x_BTD = inner.embed_tokens(ids_BT)
    rotary = inner.rotary_emb(x_BTD, torch.arange(ids_BT.shape[1], device=ids_BT.device)[None])
    for layer in inner.layers:
        x_BTD = layer(x_BTD, attention_mask=None, position_embeddings=rotary, past_key_values=None)
    normed_BTD: Tensor = inner.norm(x_BTD)
    return normed_BTD


def window_loss(
    model: Decoder, ids_BT: Tensor, targets_BT: Tensor, weights_BT: Tensor, *, compiled: bool = True
) -> tuple[Tensor, Tensor]:
    """Weighted mean loss of a batch of windows, and the loss of every position [B, T]."""
    hidden_ND = hidden_states(model, ids_BT).flatten(0, 1)
    loss, losses_N = cross_entropy(
        hidden_ND, model.lm_head.weight, targets_BT.flatten(), weights_BT.flatten(), compiled=compiled
    )
    return loss, losses_N.view_as(ids_BT)
