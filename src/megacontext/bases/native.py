"""The ``Base`` port over the native core, with the nets that learned memory together with it.

Shape legend: B rows, T new entries, S entries in the cache, N spans, K vectors per span, r gist width, V vocabulary,
D embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.cache_batch import CacheBatch
from megacontext.bases.footprint import entry_bytes, weight_bytes
from megacontext.bases.gist_encoder import GistEncoder
from megacontext.bases.key_turning import KeyTurning, LayerTurning
from megacontext.bases.memory_limits import window_explained
from megacontext.bases.native_cache import NativeCache, neighbour_slots
from megacontext.bases.native_lens import NativeLensQuery
from megacontext.bases.overflow import check_logits
from megacontext.bases.rearranging import rearranged
from megacontext.bases.scoring import checked_ids, mass_of_tap, surprise_of_rows
from megacontext.bases.transfers import on_device
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gaussian_rope import frequencies
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.ports.base import BaseInfo, ModelCache
from megacontext.ports.text import TextCodec

__all__ = ["NativeBase"]


class NativeBase:
    """A core that runs entries at uncertain positions; with a GistNet it also makes gists.

    core, gist_net: taken over, in evaluation mode, same dtype and device; info: what a memory must know.
    """

    def __init__(
        self,
        core: Core,
        codec: TextCodec,
        info: BaseInfo,
        *,
        gist_net: GistNet | None = None,
        lens_net: LensNet | None = None,
    ) -> None:
        self.info = info
        self.codec = codec
        self._core = core.eval()
        self._gist_encoder = GistEncoder(gist_net.eval()) if gist_net is not None else None
        self._lens_net = lens_net.float().eval() if lens_net is not None else None
        self.lens_features = lens_net.config.features if lens_net is not None else ()
        self.lens_query_tokens = lens_net.config.query_tokens if lens_net is not None else 0
        weight = core.embed_tokens.weight
        self._dtype, self._device = weight.dtype, weight.device
        config = core.config
        omega_F = frequencies(config.rotary_dims, base=config.rotary_base, num_slow_bands=config.num_slow_bands)
        self._omegas_F = {"": omega_F.numpy()}
        self._turning = KeyTurning({layer: LayerTurning() for layer in range(config.num_layers)})

    def embed(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Input embeddings [T, D] in the model's dtype, on its device."""
        with torch.no_grad():
            return self._core.embed(self._ids(token_ids, ndim=1))

    def new_cache(self, capacity_entries: int) -> NativeCache:
        """An empty cache with room for ``capacity_entries``; it grows if more come."""
        with self._memory_of(capacity_entries):
            return NativeCache(num_layers=self._core.config.num_layers, capacity_entries=capacity_entries)

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

        A forward that fails leaves the cache as it was.
        """
        cache = _own(cache)
        told = self._told(inputs_TD, positions_T, spreads_T, num_logits)
        with self._memory_of(cache.num_entries + len(inputs_TD), cache), torch.no_grad():
            inputs_TD = inputs_TD.to(self._device, self._dtype)
            before_BTD = cache.entries_before(inputs_TD)[None]
            where = on_device(self._device, *told)
            return self._run(inputs_TD, where, cache, None, num_logits, before_BTD=before_BTD)

    @property
    def can_patch(self) -> bool:
        return True

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
        """Forget entries, move others, and run T new ones among them; see ``SupportsPatch``."""
        cache = _own(cache)
        told = self._told(inputs_TD, positions_T, spreads_T, num_logits)

        def beside(slots_S: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
            return neighbour_slots(places_T, slots_S), *told

        with (
            self._memory_of(len(kept_n) + len(inputs_TD), cache),
            torch.no_grad(),
            rearranged(cache, self._turning, self._omegas_F, kept_n, moved_n, places_T, self._device, beside) as window,
        ):
            inputs_TD = inputs_TD.to(self._device, self._dtype)
            slots_NT, *where = window.beside
            around = cache.neighbours_of(inputs_TD, slots_NT)[None]
            return self._run(
                inputs_TD, where, cache, window.mask_TS, num_logits, slots=window.slots_S, neighbours_BNTD=around
            )

    def decode_batch(
        self, inputs_BD: torch.Tensor, positions_B: npt.NDArray[np.float64], caches: Sequence[ModelCache]
    ) -> torch.Tensor:
        """Append one entry to each of several caches; float32 logits [B, V]."""
        owned = [_own(cache) for cache in caches]
        batch = CacheBatch(owned)
        with self._memory_of(sum(cache.num_entries + 1 for cache in owned), *owned), torch.no_grad():
            inputs_BD = inputs_BD.to(self._device, self._dtype)
            before = [cache.entries_before(entry_D[None]) for cache, entry_D in zip(owned, inputs_BD, strict=True)]
            output = self._core(
                inputs_BD[:, None],
                on_device(self._device, positions_B)[0][:, None],
                None,
                before_BTD=torch.stack(before),
                cache=batch,
                tap_layer=batch.tap_layer,
            )
            assert output.tapped_BTD is not None
            for cache, states_TD in zip(owned, output.tapped_BTD, strict=True):
                cache.record_states(states_TD)
            logits: torch.Tensor = self._core.logits(output.hidden_BTD[:, -1]).float()
        batch.advance()
        return logits

    def cache_state(self, cache: ModelCache) -> dict[str, torch.Tensor]:
        """All that is in a cache, by name, on the CPU."""
        return _own(cache).state()

    def cache_from(self, state: dict[str, torch.Tensor], capacity_entries: int) -> NativeCache:
        """The cache that a state was taken of."""
        cache = self.new_cache(capacity_entries)
        self.forward(self.embed(np.zeros(1, dtype=np.uint32)), np.zeros(1), cache)
        cache.fill(state)
        return cache

    def values_of(self, cache: ModelCache, places_n: npt.NDArray[np.int64]) -> torch.Tensor:
        """Values of the last layer [n, H, E] at these places, float32."""
        return _own(cache).last_values(places_n).float()

    def _told(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        spreads_T: npt.NDArray[np.float32] | None,
        num_logits: int,
    ) -> tuple[npt.NDArray[Any], ...]:
        """Positions, and spreads unless all are 0; InvalidValueError for what cannot be run."""
        num_new = len(inputs_TD)
        num_spreads = num_new if spreads_T is None else len(spreads_T)
        if not len(positions_T) == num_spreads == num_new:
            raise InvalidValueError(
                f"{num_new} entries but {len(positions_T)} positions and {num_spreads} spreads; give one per entry"
            )
        has_bad_spread = spreads_T is not None and (not np.isfinite(spreads_T).all() or (spreads_T < 0).any())
        if has_bad_spread or not np.isfinite(positions_T).all():
            raise InvalidValueError("positions or spreads hold NaN, infinity or less than 0; give finite numbers")
        if not 1 <= num_logits <= num_new:
            raise InvalidValueError(f"num_logits is {num_logits}; it must be between 1 and the {num_new} new entries")
        return (positions_T,) if spreads_T is None or not spreads_T.any() else (positions_T, spreads_T)

    def _run(
        self,
        inputs_TD: torch.Tensor,
        where: Sequence[torch.Tensor],
        cache: NativeCache,
        mask: torch.Tensor | None,
        num_logits: int,
        *,
        slots: npt.NDArray[np.int64] | None = None,
        **around: torch.Tensor,
    ) -> torch.Tensor:
        """where: what was ``_told`` of the places of the entries, on the device."""
        mu_T, *sigma_T = where
        output = self._core(
            inputs_TD[None],
            mu_T[None],
            sigma_T[0][None] if sigma_T else None,
            mask=mask,
            cache=cache,
            tap_layer=cache.tap_layer,
            **around,
        )
        assert output.tapped_BTD is not None
        cache.record_states(output.tapped_BTD[0])
        logits: torch.Tensor = self._core.logits(output.hidden_BTD[0, -num_logits:]).float()
        if inputs_TD.dtype == torch.float16:
            check_logits(logits, inputs_TD, self.info, inputs_TD.dtype)
        cache.advance(len(inputs_TD), slots)
        return logits

    def surprise(self, token_ids_BT: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """Nats [B, T] of each token given those before it in its row; see ``surprise_of_rows``."""

        def logits(rows_BT: torch.Tensor) -> torch.Tensor:
            num_tokens = rows_BT.shape[1]
            mu_BT = torch.arange(num_tokens, dtype=torch.float64, device=self._device)[None]
            output = self._core(self._core.embed(rows_BT), mu_BT, None)
            return self._core.logits(output.hidden_BTD)

        with self._memory_of(token_ids_BT.shape[-1]):
            return surprise_of_rows(self._ids(token_ids_BT, ndim=2), logits, vocab_size=self.info.vocab_size)

    def _memory_of(self, num_entries: int, *caches: NativeCache) -> AbstractContextManager[None]:
        """Within it memory that runs out is one line with the numbers."""
        core = self._core.config
        keys_and_values = 2 * core.num_layers * core.num_kv_heads * core.head_dim * self._dtype.itemsize
        sizes = {"num_entries": num_entries, "entry_bytes": keys_and_values}
        return window_explained(self.info.name, self._device, self._dtype, **sizes, caches=caches)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, as they lie on the device."""
        return weight_bytes(self._core)

    @functools.cached_property
    def entry_bytes(self) -> int:
        """Bytes that a window keeps of each of its entries."""
        return entry_bytes(self)

    def attention_mass(self, cache: ModelCache, *, num_queries: int) -> npt.NDArray[np.float32]:
        """Attention [S] that the last ``num_queries`` entries give to each entry at the middle layer, max over heads
        and queries."""
        return mass_of_tap(_own(cache), num_queries=num_queries)

    def gists_of_tokens(self, token_ids_NK: npt.NDArray[np.uint32], *, gist_width: int) -> npt.NDArray[np.float16]:
        """Learned gists [N, r, D] of N spans of K tokens."""
        ids_NK = self._ids(token_ids_NK, ndim=2)
        with torch.no_grad():
            vectors_NKD = self._core.embed(ids_NK)
        return self._gists().encode(vectors_NKD, level=1, num_children=ids_NK.shape[1], gist_width=gist_width)

    def gists_of_gists(self, vectors_NKRD: npt.NDArray[np.float16], *, level: int) -> npt.NDArray[np.float16]:
        """Learned gists [N, r, D] of ``level`` (>= 2) from those of N x K children, r vectors each. InvalidValueError
        for another level or shape, or what is no number."""
        if level < 2 or vectors_NKRD.ndim != 4 or not np.isfinite(vectors_NKRD).all():
            raise InvalidValueError(
                f"cannot make gists of level {level} from an array of shape {vectors_NKRD.shape}; give level 2 or "
                "more, and finite vectors [spans, children, vectors of a child, width]"
            )
        vectors = on_device(self._device, vectors_NKRD)[0].to(self._dtype)
        num_children, gist_width = vectors.shape[1:3]
        return self._gists().encode(
            vectors.flatten(1, 2), level=level, num_children=num_children, gist_width=gist_width
        )

    def lens_keys(self, vectors_nrD: npt.NDArray[np.float16]) -> torch.Tensor:
        """What the lens compares of n gists as stored [n, r, H, E], unit vectors in the model's dtype."""
        with torch.no_grad():
            return self._lens().keys(on_device(self._device, vectors_nrD)[0].float()).to(self._dtype)

    def lens_query(self, cache: ModelCache, *, num_queries: int) -> NativeLensQuery:
        """Ask the lens with the last ``num_queries`` entries of the cache, as it is now."""
        cache = _own(cache)
        lens = self._lens()
        if not 1 <= num_queries <= cache.num_entries:
            raise InvalidValueError(
                f"num_queries is {num_queries}; it must be between 1 and the {cache.num_entries} entries of the cache"
            )
        return NativeLensQuery(lens, cache.last_states(num_queries))

    def _lens(self) -> LensNet:
        if self._lens_net is None:
            raise BaseModelError(
                f"{self.info.name}: has no LensNet; use a base that was trained with one, or lens 'auto'"
            )
        return self._lens_net

    def _gists(self) -> GistEncoder:
        if self._gist_encoder is None:
            raise BaseModelError(
                f"{self.info.name}: has no GistNet; use a base that was trained with one, or gister 'extractive'"
            )
        return self._gist_encoder

    def _ids(self, token_ids: npt.NDArray[np.uint32], *, ndim: int) -> torch.Tensor:
        return checked_ids(token_ids, self.info, ndim=ndim, device=self._device)


def _own(cache: ModelCache) -> NativeCache:
    assert isinstance(cache, NativeCache), "a cache belongs to the base whose new_cache made it"
    return cache
