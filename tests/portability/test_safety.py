"""Models that cannot be bases are refused with one line that names the trait and what would be needed: by their
configuration, before any weight is read, where it tells; when they are taken at the latest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.registry import BaseHandle
from megacontext.bases.traits import check_config
from megacontext.errors import BaseModelError
from megacontext.ports.base import BaseInfo
from megacontext.testing.fake_base import byte_codec
from megacontext.testing.tiny_families import FAMILIES, family_config, family_model

pytestmark = pytest.mark.portability

PLACES = "rotary positions, which can be given and moved"
KEPT = "keys and values of every entry in every layer"
# configuration class, what is set beside its defaults, and what is said
BY_CONFIG: dict[str, tuple[str, dict[str, Any], str]] = {
    "t5": ("T5Config", {}, "is an encoder-decoder; .*use a decoder-only model"),
    "bloom": ("BloomConfig", {}, rf"has attention biased by distance \(ALiBi\); a base needs {PLACES}"),
    "mpt": ("MptConfig", {}, rf"has attention biased by distance \(ALiBi\); a base needs {PLACES}"),
    "falcon_alibi": ("FalconConfig", {"alibi": True}, rf"biased by distance \(ALiBi\); a base needs {PLACES}"),
    "gpt2": ("GPT2Config", {}, f"has learned or fixed embeddings of places; a base needs {PLACES}"),
    "opt": ("OPTConfig", {}, f"has learned or fixed embeddings of places; a base needs {PLACES}"),
    "gptj": ("GPTJConfig", {}, "has its rotary embedding within each layer; a base needs one at model level"),
    "bert": ("BertConfig", {}, "has layers that look at what comes later; a base needs a decoder"),
    "mamba": ("MambaConfig", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "mamba2": ("Mamba2Config", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "rwkv": ("RwkvConfig", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "jamba": ("JambaConfig", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "zamba2": ("Zamba2Config", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "falcon_h1": ("FalconH1Config", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "recurrent_gemma": ("RecurrentGemmaConfig", {}, f"keep a state in place of entries; a base needs {KEPT}"),
    "qwen3_next": ("Qwen3NextConfig", {}, f"has layers of linear_attention; a base needs {KEPT}"),
    "llama4": ("Llama4TextConfig", {}, "has attention in chunks of fixed places; a base needs attention that reaches"),
    "gemma3n": ("Gemma3nTextConfig", {}, "has embeddings of token ids in every layer; a base needs a model that reads"),
    "gemma4": ("Gemma4TextConfig", {}, "has embeddings of token ids in every layer; a base needs a model that reads"),
    "gemma4_shared": (
        "Gemma4TextConfig",
        {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 4},
        "has 4 layers that read the keys of others",
    ),
    "deepseek_v32": ("DeepseekV32Config", {}, "has attention to what an indexer chose; a base needs attention to all"),
    "mllama": (
        "MllamaTextConfig",
        {},
        "has layers that look at images beside the text; a base needs images as entries",
    ),
    "whisper": ("WhisperConfig", {"is_encoder_decoder": False}, "has sound that it reads or makes; a base needs"),
    "bidirectional": (
        "Gemma3TextConfig",
        {"use_bidirectional_attention": True},
        "has layers that look at what comes later",
    ),
    "classifier": (
        "LlamaConfig",
        {"architectures": ["LlamaForSequenceClassification"]},
        r"has a head that classifies; a base needs a head that predicts the next token \(CausalLM\)",
    ),
    "bare": ("LlamaConfig", {"architectures": ["LlamaModel"]}, "has no head that predicts tokens; a base needs one"),
}
# As people write them without transformers: no list of layers, or code of their own.
BY_FILE: dict[str, tuple[dict[str, Any], str]] = {
    "llama4": ({"model_type": "llama4", "text_config": {"attention_chunk_size": 8192}}, "attention in chunks"),
    "qwen3_next": ({"model_type": "qwen3_next", "linear_num_value_heads": 32}, "keep a state in place of entries"),
    "kimi_linear": ({"model_type": "kimi_linear", "linear_attn_config": {"head_dim": 8}}, "keep a state in place"),
    "llada": ({"model_type": "llada"}, "has a text that is denoised as a whole; a base needs a decoder"),
    "dream": ({"model_type": "Dream"}, "has a text that is denoised as a whole; a base needs a decoder"),
    "voxtral": ({"model_type": "voxtral", "audio_config": {"hidden_size": 8}}, "has sound that it reads or makes"),
}


@pytest.mark.parametrize("kind", BY_CONFIG)
def test_a_configuration_tells_before_any_weight_is_read(kind: str, tmp_path: Path) -> None:
    class_name, changes, match = BY_CONFIG[kind]
    config = getattr(transformers, class_name)(**changes)
    config.save_pretrained(tmp_path)  # and nothing else: no weights are there to be read
    with pytest.raises(BaseModelError, match=match) as raised:
        BaseHandle(str(tmp_path)).load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", BY_FILE)
def test_published_files_tell_it_too(kind: str, tmp_path: Path) -> None:
    content, match = BY_FILE[kind]
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, **content}))
    with pytest.raises(BaseModelError, match=match) as raised:
        BaseHandle(str(tmp_path)).load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_that_serves_is_refused_by_its_configuration(family: str) -> None:
    config = family_config(family)
    for architectures in (None, [type(family_model(config)).__name__]):
        text = config.get_text_config(decoder=True).to_dict()
        check_config({**config.to_dict(), **text, "architectures": architectures}, family)


def taken(model: transformers.PreTrainedModel) -> HuggingFaceBase:
    rows, dim = model.get_input_embeddings().weight.shape
    info = BaseInfo(
        name="model",
        revision="0",
        fingerprint=f"{0:064x}",
        dim=dim,
        vocab_size=rows,
        max_positions=4096,
        dtype="float32",
        device="cpu",
        question_template="{question}",
        stop_token_ids=(),
    )
    return HuggingFaceBase(model, byte_codec(), info)


SMALL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@pytest.mark.parametrize(
    ("class_name", "match"),
    [
        ("StableLmConfig", "lacks transformers' attention interface and cache in every layer"),
        ("NemotronConfig", "lacks transformers' attention interface and cache in every layer"),
        ("DogeConfig", "makes something else of embeddings at explicit positions than of its own tokens"),
        ("XGLMConfig", "has learned or fixed embeddings of places"),
    ],
)
def test_what_no_configuration_says_shows_when_a_model_is_taken(class_name: str, match: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, class_name)(**SMALL))
    with pytest.raises(BaseModelError, match=match) as raised:
        taken(model.eval())
    assert "\n" not in str(raised.value)


def test_a_model_that_reads_ids_beside_embeddings_is_caught_by_what_it_makes_of_them() -> None:
    model = family_model(family_config("llama"))

    def read_ids(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("input_ids") is not None:
            output.logits = output.logits + 0.1 * output.logits.std() * torch.sin(kwargs["input_ids"])[..., None]
        return output

    model.register_forward_hook(read_ids, with_kwargs=True)
    with pytest.raises(BaseModelError, match="makes something else of embeddings at explicit positions"):
        taken(model)


def test_a_model_that_sees_what_comes_later_is_caught_by_what_it_makes_of_it() -> None:
    config = family_config("gemma3", use_bidirectional_attention=True)
    model = family_model(config)
    config.use_bidirectional_attention = model.config.use_bidirectional_attention = False  # what was built stays built
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    with pytest.raises(BaseModelError, match="makes something else of embeddings at explicit positions"):
        taken(model)


def test_a_model_whose_own_code_fails_is_one_line() -> None:
    model = family_model(family_config("llama"))

    def fail(*args: object) -> None:
        raise KeyError("full\nattention")

    model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(BaseModelError, match=r"fails on a few tokens \(KeyError: ") as raised:
        taken(model)
    assert "\n" not in str(raised.value)
