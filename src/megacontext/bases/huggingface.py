"""The ``Base`` port over a Hugging Face causal language model, or the part of a vision model that reads text.

Any model serves whose rotary embedding stands at model level (``model.model.rotary_emb``) and that keeps keys and
values of every entry in every layer through transformers' attention interface and cache: Llama, Qwen, Mistral, Gemma,
Phi, OLMo, Granite, DeepSeek and their relatives. When a model is taken it is compared with itself: what it makes of a
few tokens in our ways must be what it makes of them by its own. What is missing is named then, not at the first
question.

Shape legend: B rows, T new entries, S entries in the cache, V vocabulary, D embedding width, E head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from megacontext.bases.attention import register_attention
from megacontext.bases.attention_kernels import KERNELS
from megacontext.bases.cache_batch import CacheBatch
from megacontext.bases.decoder_rotary import DecoderRotary, is_taken_over
from megacontext.bases.footprint import weight_bytes
from megacontext.bases.key_turning import KeyTurning, find_turning
from megacontext.bases.kv_cache import KVCache
from megacontext.bases.memory_limits import window_explained
from megacontext.bases.overflow import check_logits, check_nats, is_checked
from megacontext.bases.plain_forward import plain_logits
from megacontext.bases.rearranging import rearranged
from megacontext.bases.rotary import Frequencies
from megacontext.bases.scoring import checked_ids, mass_of_tap, surprise_of_rows
from megacontext.bases.text_tower import TextTower, is_multimodal
from megacontext.bases.traits import check_config, check_decoder
from megacontext.bases.weight_values import check_weights_tell
from megacontext.errors import BaseModelError, InvalidValueError, MegaContextError
from megacontext.ports.base import BaseInfo, ModelCache
from megacontext.ports.text import TextCodec
from megacontext.values import choice, reason_of

__all__ = ["HuggingFaceBase"]

# How far turned keys may be from the model's own, against the largest of them: the rounding of their precision.
TURNING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# How far our logits of a token may be from the model's own, of their norm, in the median of a few: where experts choose
# by a hair, rounding sends single tokens elsewhere.
LOGITS_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
# Layers that quantise what they read scale it by what else is read at once.
QUANTIZED_TOLERANCE = 0.05
NUM_COMPARED = 6


class HuggingFaceBase:
    """A transformers causal LM that runs embeddings at explicit positions.

    model: taken over (evaluation mode, its rotary module wrapped); info: what a memory must know of it; attention: the
    kernel, one of ``KERNELS`` ("eager" stands in where "sdpa" cannot compute what a model asks for).
    Raises BaseModelError naming the trait that the model lacks.
    """

    def __init__(self, model: PreTrainedModel, codec: TextCodec, info: BaseInfo, *, attention: str = "sdpa") -> None:
        with _refusing(info.name):
            self._take(model, codec, info, attention)

    def _take(self, model: PreTrainedModel, codec: TextCodec, info: BaseInfo, attention: str) -> None:
        config = model.config.get_text_config(decoder=True)
        check_config({**model.config.to_dict(), **config.to_dict()}, info.name)
        decoder = model.get_decoder()
        check_decoder(decoder, info.name)
        self.info = info
        self.codec = codec
        self._embedding: nn.Module = decoder.get_input_embeddings()
        self._num_layers = int(config.num_hidden_layers)
        parameter = next(decoder.parameters())
        self._dtype, self._device = self._embedding.weight.dtype, parameter.device
        is_taken_before = is_taken_over(decoder)
        self._is_checked = is_checked(self._dtype, self._device)
        self._tolerance = LOGITS_TOLERANCE[self._dtype]
        if getattr(model, "is_quantized", False):
            self._tolerance = max(self._tolerance, QUANTIZED_TOLERANCE)
        own_logits = None if is_taken_before else self._own_logits(model.eval())
        self._model: Any = TextTower(model) if is_multimodal(model) else model
        self._rotary = DecoderRotary(decoder, max_positions=info.max_positions, dtype=self._dtype, device=self._device)
        self._tap_layer = _tap_layer(config, self._num_layers)
        self._expand = _expansion(decoder, self._tap_layer)
        self.entry_bytes = 0  # what a window keeps of each of its entries; found by looking
        self._sees_only_so_far = getattr(config, "sliding_window", None) is not None
        register_attention()
        self._attention = KERNELS[choice("attention", attention, tuple(KERNELS))]
        self._model.set_attn_implementation(self._attention)
        with _refusing(info.name):
            self._probe(own_logits)
            self._turning: KeyTurning | None = find_turning(
                self._rotary.frequencies(1).omegas_F, self._run_one, tolerance=TURNING_TOLERANCE[self._dtype]
            )
            self._has_batches = self._expand is None and self._batches_as_alone()

    def embed(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Input embeddings [T, D] in the model's dtype, on its device."""
        with torch.no_grad():
            embeddings: torch.Tensor = self._embedding(self._ids(token_ids, ndim=1))
        return embeddings

    def new_cache(self, capacity_entries: int) -> KVCache:
        """An empty cache with room for ``capacity_entries``; it grows if more come, but its entries are rotated as in
        a window of this size."""
        with self._memory_of(capacity_entries):
            cache = KVCache(
                num_layers=self._num_layers,
                capacity_entries=capacity_entries,
                tap_layer=self._tap_layer,
                expand=self._expand,
                has_positions=self._sees_only_so_far,
            )
        cache.frequencies = self._rotary.frequencies(capacity_entries)
        return cache

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
        omegas_F = _frequencies(cache).omegas_F
        with rearranged(cache, self._turning, omegas_F, kept_n, moved_n, places_T, self._device) as window:
            return self._run(inputs_TD, positions_T, cache, window.mask_TS[None, None], num_logits, window.slots_S)

    def decode_batch(
        self, inputs_BD: torch.Tensor, positions_B: npt.NDArray[np.float64], caches: Sequence[ModelCache]
    ) -> torch.Tensor:
        """Append one entry to each of several caches; float32 logits [B, V]. Models that do something with what a
        cache keeps before they look at it, as latent attention does, have the caches go one after another."""
        batch = CacheBatch([_own(cache) for cache in caches])
        frequencies = {id(_frequencies(cache)): _frequencies(cache) for cache in batch.caches}
        if not self._has_batches or len(frequencies) > 1:
            return self._decode_in_turn(inputs_BD, positions_B, batch.caches)
        (rotating,) = frequencies.values()
        batch.begin(positions_B)
        num_entries = sum(cache.num_entries + 1 for cache in batch.caches)
        with (
            self._memory_of(num_entries, *batch.caches),
            torch.no_grad(),
            self._rotary.serving(rotating.at_rows(positions_B)),
        ):
            output = self._model(
                inputs_embeds=inputs_BD.to(self._device, self._dtype)[:, None],
                position_ids=self._position_ids(len(positions_B), 1),
                past_key_values=batch,
                use_cache=True,
                logits_to_keep=1,
                query_tap=batch,
            )
        logits: torch.Tensor = output.logits[:, -1].float()
        if self._is_checked:
            check_logits(logits, inputs_BD, self.info, self._dtype)
        batch.advance()
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
        rotation = _frequencies(cache).at(positions_T)
        cache.begin(positions_T, slots)
        with self._memory_of(cache.num_entries + num_new, cache), torch.no_grad(), self._rotary.serving(rotation):
            output = self._model(
                inputs_embeds=inputs_TD.to(self._device, self._dtype)[None],
                position_ids=self._position_ids(1, num_new),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=num_logits,
                query_tap=cache,
            )
        logits: torch.Tensor = output.logits[0].float()
        if self._is_checked:
            check_logits(logits, inputs_TD, self.info, self._dtype)
        cache.advance(num_new, slots)
        return logits

    def _decode_in_turn(
        self, inputs_BD: torch.Tensor, positions_B: npt.NDArray[np.float64], caches: Sequence[KVCache]
    ) -> torch.Tensor:
        """One forward a session; if one fails, all caches are as they were."""
        logits = []
        try:
            for row, cache in enumerate(caches):
                logits.append(
                    self._run(inputs_BD[row : row + 1], positions_B[row : row + 1], cache, None, num_logits=1)
                )
        except BaseException:
            for cache in caches[: len(logits)]:
                cache.truncate(cache.num_entries - 1)
            raise
        return torch.cat(logits)

    def _position_ids(self, num_rows: int, num_new: int) -> torch.Tensor:
        """What a model is given for positions [B, T]; rotation does not depend on them."""
        return torch.zeros((num_rows, num_new), dtype=torch.long, device=self._device)

    def surprise(self, token_ids_BT: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """Nats [B, T] of each token given those before it in its row; see ``surprise_of_rows``."""

        def logits(rows_BT: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self._model(input_ids=rows_BT, use_cache=False, scoring=True).logits
            return scores

        with self._memory_of(token_ids_BT.shape[-1]):
            nats = surprise_of_rows(
                self._ids(token_ids_BT, ndim=2),
                logits,
                vocab_size=self.info.vocab_size,
                bos_token_id=self.info.bos_token_id,
            )
        check_nats(nats, self.info, self._dtype)
        return nats

    def plain_logits(self, token_ids_T: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Float32 logits [T, V] of tokens by transformers alone: the model's own attention and positions."""
        return plain_logits(self._model, self._ids(token_ids_T, ndim=1)[None], ours=self._attention)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, as they lie on the device."""
        return weight_bytes(self._model)

    def _memory_of(self, num_entries: int, *caches: KVCache) -> AbstractContextManager[None]:
        """Within it memory that runs out is one line with the numbers."""
        sizes = {"num_entries": num_entries, "entry_bytes": self.entry_bytes}
        return window_explained(self.info.name, self._device, self._dtype, **sizes, caches=caches)

    def attention_mass(self, cache: ModelCache, *, num_queries: int) -> npt.NDArray[np.float32]:
        """Attention [S] that the last ``num_queries`` entries give to each entry at the middle layer, max over heads
        and queries."""
        return mass_of_tap(_own(cache), num_queries=num_queries)

    def _ids(self, token_ids: npt.NDArray[np.uint32], *, ndim: int) -> torch.Tensor:
        return checked_ids(token_ids, self.info, ndim=ndim, device=self._device)

    def _own_logits(self, model: PreTrainedModel) -> torch.Tensor:
        """What the model makes of a few tokens by itself, float32 [T, V]."""
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=self._compared_ids(), use_cache=False).logits[0].float()
        check_weights_tell(model, logits, self.info.name)
        return logits

    def _compared_ids(self) -> torch.Tensor:
        spread = torch.linspace(0, self.info.vocab_size - 1, NUM_COMPARED + 2)[1:-1]
        return spread.long()[None].to(self._device)

    def _probe(self, own_logits: torch.Tensor | None) -> None:
        """Run a few entries, to find out now whether positions and cache reach every layer, and whether the model is
        what its parts make it."""
        cache = self.new_cache(NUM_COMPARED)
        inputs_TD = self.embed(self._compared_ids()[0].cpu().numpy().astype(np.uint32))
        first = self.forward(inputs_TD[:2], np.arange(2.0), cache, num_logits=2)
        rest = self.forward(inputs_TD[2:], np.arange(2.0, NUM_COMPARED), cache, num_logits=NUM_COMPARED - 2)
        self.entry_bytes = cache.bytes_per_entry if cache.is_complete else 0
        if not cache.is_complete:
            raise BaseModelError(
                f"{self.info.name}: lacks transformers' attention interface and cache in every layer, which a base "
                "needs: use another model"
            )
        if own_logits is None:
            return
        errors_T = (torch.cat([first, rest]) - own_logits).norm(dim=1) / own_logits.norm(dim=1)
        # rounding may send a token or two to other experts, but not most of them
        error = errors_T.max() if self._dtype == torch.float32 else errors_T.median()
        if not torch.allclose(error, torch.zeros_like(error), atol=self._tolerance):
            raise BaseModelError(
                f"{self.info.name}: makes something else of embeddings at explicit positions than of its own tokens "
                f"(logits differ by {float(error):.1%} of their norm); a base needs a model that reads embeddings alone"
            )

    def _batches_as_alone(self) -> bool:
        """Whether the model can be given the keys of several caches at once, found by trying."""
        caches = [self._run_one(0, 0.0), self._run_one(0, 0.0)]
        entries_BD = torch.linspace(1, -1, 2 * self.info.dim).reshape(2, -1)
        positions_B = np.ones(2)
        alone = self._decode_in_turn(entries_BD, positions_B, caches)
        for cache in caches:
            cache.truncate(1)
        self._has_batches = True
        try:
            together = self.decode_batch(entries_BD, positions_B, caches)
        except (TypeError, AttributeError, ValueError, RuntimeError):
            return False
        errors_B = (together - alone).norm(dim=1) / alone.norm(dim=1)
        return torch.allclose(errors_B, torch.zeros_like(errors_B), atol=self._tolerance)

    def _run_one(self, number: int, position: float) -> KVCache:
        """A cache with one entry of some at a position, the same every time; no token, because a model may embed some
        as 0."""
        cache = self.new_cache(1)
        entry_D = torch.linspace(-1, 1, self.info.dim).roll(number)
        self.forward(entry_D[None], np.array([position]), cache)
        return cache


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What a model's own code raises on its first tokens, in one line."""
    try:
        yield
    except (MegaContextError, MemoryError, torch.OutOfMemoryError):  # no room is no trait
        raise
    except Exception as error:
        raise BaseModelError(
            f"{name}: fails on a few tokens ({type(error).__name__}: {reason_of(error)}); a base needs a model that "
            "reads embeddings with transformers' cache alone: use another model, or another dtype"
        ) from error


def _tap_layer(config: Any, num_layers: int) -> int:
    """The layer nearest to the middle that sees the whole window."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * num_layers
    middle = num_layers // 2
    whole = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    return min(whole, key=lambda layer: abs(layer - middle), default=middle)


def _expansion(decoder: Any, layer: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """How a layer with latent attention (DeepSeek-AI 2024, "DeepSeek-V2") makes keys of what its cache keeps."""
    for name, module in decoder.named_modules():
        if name.endswith(".self_attn") and getattr(module, "layer_idx", None) == layer and hasattr(module, "expand_kv"):
            return lambda kept, rotated: module.expand_kv(kept, rotated)[0]
    return None


def _frequencies(cache: KVCache) -> Frequencies:
    assert cache.frequencies is not None, "new_cache says how a window rotates"
    return cache.frequencies


def _own(cache: ModelCache) -> KVCache:
    assert isinstance(cache, KVCache), "a cache belongs to the base whose new_cache made it"
    return cache
