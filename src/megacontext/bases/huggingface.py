"""The ``Base`` port over a Hugging Face causal language model.

Any model serves whose rotary embedding stands at model level (``model.model.rotary_emb``), that attends fully in every
layer and calls transformers' attention interface: Llama, Qwen2, Qwen3 and their many relatives. What is missing is
named when the model is taken, not at the first question.

Shape legend: B rows, T new entries, S entries in the cache, V vocabulary, D embedding width, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from megacontext.bases.attention import ATTENTION_NAME, register_attention
from megacontext.bases.cache_batch import CacheBatch
from megacontext.bases.key_turning import KeyTurning, find_turning
from megacontext.bases.kv_cache import KVCache
from megacontext.bases.rearranging import rearranged
from megacontext.bases.rotary import ExplicitRotary
from megacontext.bases.scoring import checked_ids, mass_of_tap, surprise_of_rows
from megacontext.bases.traits import check_config, check_decoder
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.ports.base import BaseInfo, ModelCache
from megacontext.ports.text import TextCodec

__all__ = ["HuggingFaceBase"]

# How far turned keys may be from the model's own, against the largest of them: the rounding of their precision.
TURNING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}


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
        self._turning: KeyTurning | None = find_turning(
            self._rotary.omega_F, self._run_one, tolerance=TURNING_TOLERANCE[self._dtype]
        )

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
        cache = _own(cache)
        return self._run(inputs_TD, positions_T, cache, None, num_logits)

    @property
    def can_patch(self) -> bool:
        """Whether the way in which its keys turn was found, by looking, when the model was taken."""
        return self._turning is not None

    def patch(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        cache: ModelCache,
        *,
        kept_n: npt.NDArray[np.int64],
        moved_n: npt.NDArray[np.float64],
        places_T: npt.NDArray[np.int64],
        spreads_T: npt.NDArray[np.float32] | None = None,
        num_logits: int = 1,
    ) -> torch.Tensor:
        """Forget entries, move others, and run T new ones among them; see ``SupportsPatch``. ``spreads_T`` is passed
        over."""
        cache = _own(cache)
        assert self._turning is not None, "can_patch says that these keys cannot be moved"
        with rearranged(cache, self._turning, kept_n, moved_n, places_T, self._device) as window:
            return self._run(inputs_TD, positions_T, cache, window.mask_TS[None, None], num_logits, window.slots_S)

    def decode_batch(
        self, inputs_BD: torch.Tensor, positions_B: npt.NDArray[np.float64], caches: Sequence[ModelCache]
    ) -> torch.Tensor:
        """Append one entry to each of several caches; float32 logits [B, V]."""
        batch = CacheBatch([_own(cache) for cache in caches])
        with torch.no_grad():
            output = self._model(
                inputs_embeds=inputs_BD.to(self._device, self._dtype)[:, None],
                position_ids=self._rotary.position_ids_of_rows(positions_B),
                past_key_values=batch,
                use_cache=True,
                logits_to_keep=1,
                query_tap=batch,
            )
        batch.advance()
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def cache_state(self, cache: ModelCache) -> dict[str, torch.Tensor]:
        """All that is in a cache, by name, on the CPU."""
        return _own(cache).state()

    def cache_from(self, state: dict[str, torch.Tensor], capacity_entries: int) -> KVCache:
        """The cache that a state was taken of."""
        cache = self.new_cache(capacity_entries)
        self.forward(self.embed(np.zeros(1, dtype=np.uint32)), np.zeros(1), cache)
        cache.fill(state)
        return cache

    def values_of(self, cache: ModelCache, places_n: npt.NDArray[np.int64]) -> torch.Tensor:
        """Values of the last layer [n, H, E] at these places, float32."""
        return _own(cache).last_values(places_n).float()

    def _run(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        cache: KVCache,
        mask: torch.Tensor | None,
        num_logits: int,
        slots: npt.NDArray[np.int64] | None = None,
    ) -> torch.Tensor:
        num_new = len(inputs_TD)
        if len(positions_T) != num_new:
            raise InvalidValueError(f"{num_new} entries but {len(positions_T)} positions; give one position per entry")
        if not 1 <= num_logits <= num_new:
            raise InvalidValueError(f"num_logits is {num_logits}; it must be between 1 and the {num_new} new entries")
        with torch.no_grad():
            output = self._model(
                inputs_embeds=inputs_TD.to(self._device, self._dtype)[None],
                position_ids=self._rotary.position_ids(positions_T),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=num_logits,
                query_tap=cache,
            )
        cache.advance(num_new, slots)
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
        return mass_of_tap(_own(cache), num_queries=num_queries)

    def _ids(self, token_ids: npt.NDArray[np.uint32], *, ndim: int) -> torch.Tensor:
        return checked_ids(token_ids, self.info, ndim=ndim, device=self._device)

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

    def _run_one(self, position: float) -> KVCache:
        """A cache with one entry at a position, the same every time; no token, because a model may embed some as 0."""
        cache = self.new_cache(1)
        entry_D = torch.linspace(-1, 1, self.info.dim)
        self.forward(entry_D[None], np.array([position]), cache)
        return cache


def _own(cache: ModelCache) -> KVCache:
    assert isinstance(cache, KVCache), "a cache belongs to the base whose new_cache made it"
    return cache
