"""Small models of the architectures that people run, each with the quirks of its published configurations.

No weight is downloaded: sizes are tiny and weights random by seed, but the classes, the layer patterns and every trait
that the mathematics depends on (grouped queries, normalised queries and keys, sliding windows, soft caps, scaled
embeddings, partial and multi-axis rotary, sinks, experts, latent attention, scaled frequencies) are the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.traits import longest_window
from megacontext.ports.base import BaseInfo
from megacontext.testing.fake_base import byte_codec

__all__ = [
    "FAMILIES",
    "ROPE_SCALINGS",
    "SLIDING_WINDOW",
    "VOCAB_SIZE",
    "family_base",
    "family_config",
    "family_model",
    "with_rope",
]

VOCAB_SIZE = 256
MAX_POSITIONS = 4096
# A sliding window that the tests' windows are longer than.
SLIDING_WINDOW = 24

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.3,  # larger than usual, so that logits depend visibly on what was seen
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_HEADS = {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ALTERNATING = {
    "num_hidden_layers": 4,
    "sliding_window": SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
_LATENT = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_GRANITE = {
    "tie_word_embeddings": True,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
}
_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "depth": 1, "out_hidden_size": 32}

# name: (configuration class, what it has beside the common sizes)
FAMILIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", _HEADS),
    "llama3": (
        "LlamaConfig",
        {
            **_HEADS,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512,
            },
        },
    ),
    "qwen2": ("Qwen2Config", {}),
    "qwen2_sliding": (
        "Qwen2Config",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": SLIDING_WINDOW,
            "max_window_layers": 2,
        },
    ),
    "qwen3": ("Qwen3Config", {**_HEADS, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_HEADS, **_EXPERTS}),
    "mistral": ("MistralConfig", {**_HEADS, "sliding_window": SLIDING_WINDOW}),
    "mixtral": ("MixtralConfig", {**_HEADS, **_EXPERTS, "sliding_window": None}),
    "gemma2": (
        "Gemma2Config",
        {
            **_HEADS,
            **_ALTERNATING,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_HEADS,
            **_ALTERNATING,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            },
        },
    ),
    "phi3": (
        "Phi3Config",
        {
            "sliding_window": SLIDING_WINDOW,
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.0, 2.0, 4.0, 8.0],
                "original_max_position_embeddings": 128,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "phi4_mini": (
        "Phi3Config",
        {
            "tie_word_embeddings": True,
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
            "hidden_size": 64,
        },
    ),
    "smollm2": ("LlamaConfig", {"tie_word_embeddings": True}),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": (
        "Olmo3Config",
        {
            **_ALTERNATING,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 512,
                },
            },
        },
    ),
    "granite": ("GraniteConfig", _GRANITE),
    "granite_swa": (
        "GraniteSWAConfig",
        {**_HEADS, **_GRANITE, **_ALTERNATING, "layer_rope_theta": [10000.0, 500000.0, 10000.0, 0.0]},
    ),
    "deepseek_v2": ("DeepseekV2Config", {**_LATENT, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek_v3": ("DeepseekV3Config", _LATENT),
    "gpt_neox": (
        "GPTNeoXConfig",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            **_HEADS,
            **_ALTERNATING,
            **_EXPERTS,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 8.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 512,
            },
        },
    ),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        {
            "vision_config": {**_VISION, "fullatt_block_indexes": [0]},
            "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}},
        },
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        {
            "vision_config": {**_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
            "text_config": {
                **_HEADS,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
            },
        },
    ),
    "llava": (
        "LlavaConfig",
        {
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "projection_dim": 32,
            },
            "text_config": {"model_type": "llama", **_HEADS},
            "image_token_index": 255,
        },
    ),
}

# Every way in which published configurations stretch rotary frequencies, for models of ``MAX_POSITIONS`` positions.
ROPE_SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 512},
    "llama3": {**FAMILIES["llama3"][1]["rope_parameters"]},
    "longrope": {**FAMILIES["phi3"][1]["rope_parameters"]},
}


def family_config(family: str, **changes: Any) -> transformers.PretrainedConfig:
    """The configuration of a small model of a family; ``changes`` go to the part that describes the text model."""
    class_name, own = FAMILIES[family]
    config_class = getattr(transformers, class_name)
    if "text_config" in own:
        text = {**_SIZES, **own["text_config"], **changes}
        ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        return config_class(**{**own, "text_config": text, **ids})
    return config_class(**{**_SIZES, **own, **changes})


def with_rope(rope: Mapping[str, Any], **changes: Any) -> transformers.PretrainedConfig:
    """A small Llama whose rotary frequencies are scaled in one of ``ROPE_SCALINGS``' ways."""
    return family_config("llama", rope_parameters=dict(rope), **changes)


def family_model(
    config: transformers.PretrainedConfig, *, dtype: str = "float32", seed: int = 0
) -> transformers.PreTrainedModel:
    """A model of a configuration with random weights by seed, in evaluation mode."""
    auto = transformers.AutoModelForCausalLM
    if "text_config" in config.sub_configs:
        auto = transformers.AutoModelForImageTextToText
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: transformers.PreTrainedModel = auto.from_config(config, dtype=torch.float32)
        _stir(model)
    return model.to(getattr(torch, dtype)).eval()


def family_base(
    config: transformers.PretrainedConfig, *, dtype: str = "float32", attention: str = "sdpa", seed: int = 0
) -> HuggingFaceBase:
    """The same model behind the ``Base`` port, with a codec of one token per byte."""
    text = config.get_text_config(decoder=True)
    info = BaseInfo(
        name=config.model_type,
        revision=str(seed),
        fingerprint=f"{seed:064x}",
        dim=text.hidden_size,
        vocab_size=text.vocab_size,
        max_positions=longest_window(text.to_dict()) or MAX_POSITIONS,
        dtype=dtype,
        device="cpu",
        question_template="\nQuestion: {question}\nAnswer:",
        stop_token_ids=(),
    )
    return HuggingFaceBase(family_model(config, dtype=dtype, seed=seed), byte_codec(), info, attention=attention)


def _stir(model: torch.nn.Module) -> None:
    """Move what initialisation leaves at 0 or 1 (biases, norms, sinks, routers), so that all of it shows in logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or not parameter.any():
                parameter.add_(torch.randn_like(parameter) * 0.1)
