"""The part of a vision-language model that reads text, as if it were a model of its own.

What looks at images is left out, and its weights are freed: a memory of text needs none of it.

Shape legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

__all__ = ["TextTower", "is_multimodal"]


def is_multimodal(model: PreTrainedModel) -> bool:
    """Whether the model's decoder has a configuration of its own within the model's."""
    return model.config.get_text_config(decoder=True) is not model.config


class TextTower(nn.Module):
    """Decoder and output layer of a vision-language model, called as a causal language model is."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.config = model.config.get_text_config(decoder=True)
        self.decoder: Any = model.get_decoder()
        self.output_layer: Any = model.get_output_embeddings()
        self._softcap: float | None = getattr(self.config, "final_logit_softcapping", None)

    def get_decoder(self) -> Any:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        embedding: nn.Module = self.decoder.get_input_embeddings()
        return embedding

    def set_attn_implementation(self, name: str) -> None:
        self.decoder.set_attn_implementation(name)

    def forward(self, *, logits_to_keep: int = 0, **inputs: Any) -> SimpleNamespace:
        """``logits`` [B, T, V] of the last ``logits_to_keep`` tokens, of all if 0."""
        hidden_BTD = self.decoder(**inputs).last_hidden_state
        logits: torch.Tensor = self.output_layer(hidden_BTD[:, -logits_to_keep:])
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return SimpleNamespace(logits=logits)
