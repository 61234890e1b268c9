"""The ``Base`` port over a Hugging Face causal language model.

Any model serves whose rotary embedding stands at model level (``model.model.rotary_emb``), that attends fully in every
layer and calls transformers' attention interface: Llama, Qwen2, Qwen3 and their many relatives. What is missing is
named when the model is taken, not at the first question.

Shape legend: B rows, T new entries, S entries in the cache, V vocabulary, D embedding width, E head dimension.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from megacontext.bases.attention import ATTENTION_NAME, causal_mask, register_attention
from megacontext.bases.kv_cache import KVCache
from megacontext.bases.rotary import ExplicitRotary
from megacontext.bases.scoring import checked_ids, mass_of_tap, surprise_of_rows
from megacontext.bases.traits import check_config, check_decoder
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.ports.base import BaseInfo, ModelCache
from megacontext.ports.text import TextCodec

__all__ = ["HuggingFaceBase"]


class HuggingFaceBase:
    """A transformers causal LM that runs embeddings at explicit positions.

    model: taken over (evaluation mode, its rotary module wrapped); info: what a memory must know of it.
    Raises BaseModelError naming the trait that the model lacks.
    """

    def __init__(self, model: PreTrainedModel, codec: TextCodec, info: BaseInfo) -> None:
        check_config(model.config, info.name)
        decoder = model.get_decoder()
        check_decoder(decoder, info.name)
        self.info = info
        self.codec = codec
        self._model = model.eval()
        self._embedding: nn.Module = model.get_input_embeddings()
        self._num_layers = int(model.config.num_hidden_layers)
        parameter = next(model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        if not isinstance(decoder.rotary_emb, ExplicitRotary):
            decoder.rotary_emb = ExplicitRotary(
                decoder.rotary_emb, max_positions=info.max_positions, dtype=self._dtype, device=self._device
            )
        self._rotary: ExplicitRotary = decoder.rotary_emb
        register_attention()
        model.set_attn_implementation(ATTENTION_NAME)
        self._probe()

    def embed(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Input embeddings [T, D] in the model's dtype, on its device."""
        with torch.no_grad():
            embeddings: torch.Tensor = self._embedding(self._ids(token_ids, ndim=1))
        return embeddings

    def new_cache(self, capacity_entries: int) -> KVCache:
        """An empty cache with room for ``capacity_entries``; it grows if more come."""
        return KVCache(num_layers=self._num_layers, capacity_entries=capacity_entries, tap_layer=self._num_layers // 2)

    def forward(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        cache: ModelCache,
        *,
        spreads_T: npt.NDArray[np.float32] | None = None,
        num_logits: int = 1,
    ) -> torch.Tensor:
        """Append T entries to the cache; float32 logits [num_logits, V] of the last ``num_logits`` entries.

        ``spreads_T`` is passed over: these models know places, not spans. A forward that fails leaves the cache as it
        was.
        """
        assert isinstance(cache, KVCache), "a cache belongs to the base whose new_cache made it"
        num_new = len(inputs_TD)
        if len(positions_T) != num_new:
            raise InvalidValueError(f"{num_new} entries but {len(positions_T)} positions; give one position per entry")
        if not 1 <= num_logits <= num_new:
            raise InvalidValueError(f"num_logits is {num_logits}; it must be between 1 and the {num_new} new entries")
        with torch.no_grad():
            output = self._model(
                inputs_embeds=inputs_TD.to(self._device, self._dtype)[None],
                position_ids=self._rotary.position_ids(positions_T),
                attention_mask=self._mask(num_new, cache.num_entries),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=num_logits,
                query_tap=cache,
            )
        cache.advance(num_new)
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def surprise(self, token_ids_BT: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """Nats [B, T] of each token given those before it in its row; see ``surprise_of_rows``."""

        def logits(rows_BT: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self._model(input_ids=rows_BT, use_cache=False, scoring=True).logits
            return scores

        return surprise_of_rows(self._ids(token_ids_BT, ndim=2), logits, vocab_size=self.info.vocab_size)

    def attention_mass(self, cache: ModelCache, *, num_queries: int) -> npt.NDArray[np.float32]:
        """Attention [S] that the last ``num_queries`` entries give to each entry at the middle layer, max over heads
        and queries."""
        assert isinstance(cache, KVCache), "a cache belongs to the base whose new_cache made it"
        return mass_of_tap(cache, num_queries=num_queries)

    def _ids(self, token_ids: npt.NDArray[np.uint32], *, ndim: int) -> torch.Tensor:
        return checked_ids(token_ids, self.info, ndim=ndim, device=self._device)

    def _mask(self, num_new: int, num_cached: int) -> torch.Tensor | None:
        """None where attention needs none: one query sees everything, and a fresh window is causal by itself."""
        if num_new == 1 or num_cached == 0:
            return None
        return causal_mask(num_new, num_cached, self._device)[None, None]

    def _probe(self) -> None:
        """Run three entries, to find out now whether positions and cache reach every layer."""
        cache = self.new_cache(4)
        inputs_TD = self.embed(np.zeros(3, dtype=np.uint32))
        self.forward(inputs_TD[:2], np.array([0.0, 1.0]), cache)
        self.forward(inputs_TD[2:], np.array([2.0]), cache)
        if not cache.is_complete:
            raise BaseModelError(
                f"{self.info.name}: lacks transformers' attention interface and cache in every layer; "
                "use a Llama or Qwen family model"
            )
