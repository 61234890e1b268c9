"""Traits that no base can have, as configurations tell of them: by kind of model, by key, by what it is made for.

Each has what would be needed, so that a refusal is one line. What no configuration says shows when a model is taken and
compared with itself (``bases/huggingface.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["refusal"]

# trait: what a base needs in its place
STATE = "layers that keep a state in place of entries", "keys and values of every entry in every layer"
ABSOLUTE = "learned or fixed embeddings of places", "rotary positions, which can be given and moved"
ALIBI = "attention biased by distance (ALiBi)", "rotary positions, which can be given and moved"
IN_LAYERS = "its rotary embedding within each layer", "one at model level, which can be given positions"
ENCODER = "layers that look at what comes later", "a decoder, in which entries look at those before them alone"
DENOISER = "a text that is denoised as a whole", "a decoder, which makes one token after another"
PER_LAYER = "embeddings of token ids in every layer", "a model that reads embeddings alone: gists have no ids"
CHUNKED = "attention in chunks of fixed places", "attention that reaches back by distance or to all entries"
INDEXED = "attention to what an indexer chose", "attention to all entries, whose keys can be moved"
CROSS = "layers that look at images beside the text", "images as entries of the window, or text alone"
SPOKEN = "sound that it reads or makes", "a model of text"
HEAD = "a head that classifies", "a head that predicts the next token (CausalLM)"
BARE = "no head that predicts tokens", "one (CausalLM): use the checkpoint that writes text"

BY_TYPE: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("bloom", "mpt"), ALIBI),
    **dict.fromkeys(
        ("gpt2", "gpt-sw3", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt", "biogpt", "xglm", "ctrl", "cpmant", "xlnet"),
        ABSOLUTE,
    ),
    **dict.fromkeys(("gptj", "codegen"), IN_LAYERS),
    **dict.fromkeys(
        ("mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv7", "xlstm", "recurrent_gemma", "jamba", "zamba", "zamba2"),
        STATE,
    ),
    **dict.fromkeys(("bamba", "falcon_h1", "nemotron_h", "plamo2"), STATE),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "camembert", "modernbert", "eurobert"), ENCODER),
    **dict.fromkeys(("llada", "Dream", "dream", "llada2_moe", "diffusion_gemma"), DENOISER),
    **dict.fromkeys(("mllama", "mllama_text_model"), CROSS),
    **dict.fromkeys(("whisper", "musicgen", "musicgen_melody", "moshi", "bark", "csm", "speecht5"), SPOKEN),
}
# Keys that say so whatever a model is called; where ``layer_types`` are listed, they tell more of states.
BY_KEY: tuple[tuple[tuple[str, ...], tuple[str, str]], ...] = (
    (("hidden_size_per_layer_input",), PER_LAYER),
    (("attention_chunk_size",), CHUNKED),
    (("index_topk",), INDEXED),
    (("cross_attention_layers",), CROSS),
    (("use_bidirectional_attention",), ENCODER),
    (("alibi",), ALIBI),
    (("audio_config",), SPOKEN),
)
STATE_KEYS = ("mamba_d_state", "ssm_state_size", "lru_width", "linear_num_value_heads", "linear_attn_config")
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "RewardModel")


def refusal(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a model has that no base can have, and what would be needed; None if its configuration names no such."""
    kind = str(config.get("model_type"))
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    for keys, trait in BY_KEY:
        if any(config.get(key) for key in keys):
            return trait
    if not config.get("layer_types") and any(config.get(key) for key in STATE_KEYS):
        return STATE
    architectures = [str(name) for name in config.get("architectures") or ()]
    if any(name.endswith(CLASSIFIERS) for name in architectures):
        return HEAD
    if architectures and all(name.endswith("Model") and not name.endswith("LMHeadModel") for name in architectures):
        return BARE
    return None
