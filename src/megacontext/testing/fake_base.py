"""Tiny real models with fixed random weights, and a codec of one token per byte: a ``Base`` without any file.

They are not mocks: a two-layer Llama or Qwen goes through the same adapter as a large one.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.errors import InvalidValueError
from megacontext.ports.base import Base, BaseInfo
from megacontext.ports.text import Encoded

__all__ = ["ArrayRows", "BaseInMemory", "ByteCodec", "DType", "Family", "byte_codec", "tiny_base", "tiny_model"]

Family = Literal["llama", "qwen2", "qwen3"]
DType = Literal["float32", "bfloat16"]
FAMILIES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}


class ByteCodec:
    """``TextCodec`` with one token per UTF-8 byte: token ids are the bytes."""

    vocab_size = 256
    fingerprint = hashlib.sha256(b"byte codec").hexdigest()

    def encode(self, text: str) -> Encoded:
        try:
            token_ids = np.frombuffer(text.encode(), dtype=np.uint8)
        except UnicodeEncodeError as error:
            raise InvalidValueError(f"text has a lone surrogate at character {error.start}") from error
        char_starts = np.cumsum((token_ids & 0xC0) != 0x80) - 1
        return Encoded(token_ids=token_ids.astype(np.uint32), char_starts=char_starts.astype(np.int64))

    def encode_batch(self, texts: list[str]) -> list[Encoded]:
        return [self.encode(text) for text in texts]

    def decode(self, token_ids: npt.NDArray[np.uint32]) -> str:
        return token_ids[token_ids < 256].astype(np.uint8).tobytes().decode(errors="replace")


def byte_codec() -> ByteCodec:
    """A codec over 256 bytes."""
    return ByteCodec()


def tiny_model(
    family: Family = "qwen3", *, vocab_size: int = 256, dtype: DType = "float32", seed: int = 0
) -> transformers.PreTrainedModel:
    """A plain transformers model: 2 layers, width 32, 4 query and 2 key-value heads, random weights by seed."""
    config = FAMILIES[family](
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.3,  # larger than usual, so that logits depend visibly on what was seen
        eos_token_id=None,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype)
        )
    return model.eval()


def tiny_base(
    family: Family = "qwen3",
    *,
    vocab_size: int = 256,
    dtype: DType = "float32",
    seed: int = 0,
    bos_token_id: int | None = None,
) -> HuggingFaceBase:
    """The same model behind the ``Base`` port, with the byte codec. Equal arguments give equal weights.

    bos_token_id: what every window begins with, as if it had been trained so.
    """
    model = tiny_model(family, vocab_size=vocab_size, dtype=dtype, seed=seed)
    weights = model.get_input_embeddings().weight.detach().float().numpy().tobytes()
    info = BaseInfo(
        name=f"tiny-{family}",
        revision=str(seed),
        fingerprint=hashlib.sha256(weights).hexdigest(),
        dim=32,
        vocab_size=vocab_size,
        max_positions=4096,
        dtype=dtype,
        device="cpu",
        question_template="\nQuestion: {question}\nAnswer:",
        stop_token_ids=(),
        bos_token_id=bos_token_id,
    )
    return HuggingFaceBase(model, byte_codec(), info)


class ArrayRows:
    """An embedding matrix in memory, as gisters ask for it."""

    def __init__(self, table_VD: npt.NDArray[np.float32]) -> None:
        self._table_VD = table_VD

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        rows: npt.NDArray[np.float32] = self._table_VD[token_ids]
        return rows


class BaseInMemory:
    """A base that is loaded already, in the shape of ``BaseHandle``."""

    def __init__(self, base: Base) -> None:
        self.info = base.info
        self.codec = base.codec
        self._base = base
        every_id = np.arange(base.info.vocab_size, dtype=np.uint32)
        self.embeddings = ArrayRows(base.embed(every_id).float().cpu().numpy())

    def load(self) -> Base:
        return self._base
