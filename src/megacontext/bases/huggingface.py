"""The ``Base`` port over a Hugging Face causal language model.

Any model serves whose rotary embedding stands at model level (``model.model.rotary_emb``), that attends fully in every
layer and calls transformers' attention interface: Llama, Qwen2, Qwen3 and their many relatives. What is missing is
named when the model is taken, not at the first question.

Shape legend: B rows, T new entries, S entries in the cache, V vocabulary, D embedding width, E head dimension.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from megacontext.bases.attention import ATTENTION_NAME, causal_mask, register_attention
from megacontext.bases.kv_cache import KVCache
from megacontext.bases.rotary import ExplicitRotary
from megacontext.bases.traits import check_config, check_decoder
from megacontext.errors import BaseModelError, InvalidTokensError, InvalidValueError
from megacontext.ports.base import BaseInfo, ModelCache
from megacontext.ports.text import TextCodec

__all__ = ["HuggingFaceBase"]

# One forward of ``surprise`` sees about this many tokens: enough to fill the matrix units, little enough for memory.
SLICE_TOKENS = 1024
# Float32 logits held at once while negative log-likelihoods are taken: on a CPU what stays in its cache.
LOGIT_CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 25}


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
        num_logits: int = 1,
    ) -> torch.Tensor:
        """Append T entries to the cache; float32 logits [num_logits, V] of the last ``num_logits`` entries.

        A forward that fails leaves the cache as it was.
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
        """Nats [B, T] of each token given those before it in its row; the first of a row is log(V).

        Rows are run in slices of equal shape, so that on one machine a row's result does not depend on which rows
        are asked for together with it (a slice holds ``SLICE_TOKENS`` tokens, at least one row).
        """
        ids_BT = self._ids(token_ids_BT, ndim=2)
        num_rows, num_tokens = token_ids_BT.shape
        nats_BT = np.full((num_rows, num_tokens), math.log(self.info.vocab_size), dtype=np.float32)
        if num_tokens < 2:
            return nats_BT
        slice_rows = max(1, SLICE_TOKENS // num_tokens)
        for first in range(0, num_rows, slice_rows):
            rows_BT = ids_BT[first : first + slice_rows]
            num_taken = len(rows_BT)
            if num_taken < slice_rows:
                rows_BT = nn.functional.pad(rows_BT, (0, 0, 0, slice_rows - num_taken))
            with torch.no_grad():
                logits_BTV = self._model(input_ids=rows_BT, use_cache=False, scoring=True).logits
                nats = _negative_log_likelihood(logits_BTV[:, :-1].flatten(0, 1), rows_BT[:, 1:].flatten())
            nats_BT[first : first + num_taken, 1:] = nats.view(slice_rows, -1)[:num_taken].cpu().numpy()
        return nats_BT

    def attention_mass(self, cache: ModelCache, *, num_queries: int) -> npt.NDArray[np.float32]:
        """Attention [S] that the last ``num_queries`` entries give to each entry at the middle layer, max over heads
        and queries. The cache keeps that layer's queries, so nothing is run again."""
        assert isinstance(cache, KVCache), "a cache belongs to the base whose new_cache made it"
        num_entries = cache.num_entries
        if not 1 <= num_queries <= num_entries:
            raise InvalidValueError(
                f"num_queries is {num_queries}; it must be between 1 and the {num_entries} entries of the cache"
            )
        queries, keys = cache.tap(num_queries)
        with torch.no_grad():
            num_kv_heads = keys.shape[1]
            grouped = queries[0].float().reshape(num_kv_heads, -1, num_queries, keys.shape[-1])  # [H, G, T, E]
            scores = grouped @ keys[0].float().transpose(1, 2)[:, None] * cache.tap_scaling
            mask = causal_mask(num_queries, num_entries - num_queries, scores.device)
            mass: npt.NDArray[np.float32] = (
                scores.masked_fill(~mask, -math.inf).softmax(-1).amax((0, 1, 2)).cpu().numpy()
            )
        return mass

    def _ids(self, token_ids: npt.NDArray[np.uint32], *, ndim: int) -> torch.Tensor:
        if token_ids.ndim != ndim or token_ids.dtype.kind not in "ui":
            raise InvalidTokensError(
                f"token ids have shape {token_ids.shape} and dtype {token_ids.dtype}; expected {ndim} axes of integers"
            )
        if token_ids.size and not 0 <= token_ids.min() <= token_ids.max() < self.info.vocab_size:
            bad = token_ids.min() if token_ids.min() < 0 else token_ids.max()
            raise InvalidTokensError(
                f"token id {bad} is outside the vocabulary of {self.info.name}: 0 to {self.info.vocab_size - 1}"
            )
        return torch.from_numpy(token_ids.astype(np.int64)).to(self._device)

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


def _negative_log_likelihood(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Float32 nats [N], in chunks: float32 logits of a large vocabulary would not fit."""
    chunk = max(1, LOGIT_CHUNK_ELEMENTS[logits_NV.device.type] // logits_NV.shape[-1])
    nats_N = -logits_NV.gather(1, targets_N[:, None])[:, 0].float()
    for first in range(0, len(targets_N), chunk):
        nats_N[first : first + chunk] += logits_NV[first : first + chunk].float().logsumexp(-1)
    return nats_N
