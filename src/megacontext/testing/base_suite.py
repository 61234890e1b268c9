"""What every ``Base`` promises, as a test class to subclass: give it ``make`` and run pytest.

Nothing here knows transformers. The reference of every test is a fresh forward of the same base.

Shape legend: T entries, V vocabulary.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch

from megacontext.errors import InvalidTokensError, InvalidValueError
from megacontext.ports.base import (
    Base,
    ModelCache,
    SupportsAttentionMass,
    SupportsBatches,
    SupportsPatch,
    SupportsSavedCache,
    SupportsSurprise,
    lead_ids,
    question_ids,
)

__all__ = ["BaseSuite"]


class BaseSuite:
    """Subclass it as ``TestMyBase`` and override ``make``; ``tolerance`` is in logits."""

    tolerance = 1e-4
    num_entries = 48

    def make(self) -> Base:
        """The base; called by every test, so it should be tiny."""
        raise NotImplementedError

    @functools.cached_property
    def base(self) -> Base:
        return self.make()

    def tokens(self, count: int, seed: int = 0) -> npt.NDArray[np.uint32]:
        return np.random.default_rng(seed).integers(0, self.base.info.vocab_size, count).astype(np.uint32)

    def run(self, token_ids: npt.NDArray[np.uint32], cache: ModelCache, *, start: float | None = None) -> torch.Tensor:
        """Logits [T, V] of tokens put at the end of the cache, numbered in the window."""
        first = float(cache.num_entries) if start is None else start
        positions = first + np.arange(len(token_ids), dtype=np.float64)
        return self.base.forward(self.base.embed(token_ids), positions, cache, num_logits=len(token_ids))

    def fresh(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        return self.run(token_ids, self.base.new_cache(len(token_ids)))

    def close(self, ours: torch.Tensor, reference: torch.Tensor) -> None:
        torch.testing.assert_close(ours, reference, atol=self.tolerance, rtol=self.tolerance)

    def test_it_is_a_base_with_complete_facts(self) -> None:
        info = self.base.info
        assert isinstance(self.base, Base)
        assert self.base.embed(self.tokens(3)).shape == (3, info.dim)
        assert self.base.codec.vocab_size <= info.vocab_size
        assert len(info.fingerprint) == 64
        assert "{question}" in info.question_template
        assert all(0 <= token_id < info.vocab_size for token_id in info.stop_token_ids)
        assert (lead_ids(info) < info.vocab_size).all()
        asked = question_ids(info, self.base.codec, "Who?")
        assert asked.dtype == np.uint32
        assert (asked < info.vocab_size).all()

    def test_logits_are_float32_of_the_last_entries(self) -> None:
        token_ids = self.tokens(10)
        every = self.fresh(token_ids)
        last = self.base.forward(self.base.embed(token_ids), np.arange(10.0), self.base.new_cache(10), num_logits=3)
        assert (every.dtype, tuple(every.shape)) == (torch.float32, (10, self.base.info.vocab_size))
        self.close(last, every[-3:])

    def test_cached_equals_uncached_in_any_chunking(self) -> None:
        token_ids = self.tokens(self.num_entries)
        cache = self.base.new_cache(1)
        borders = [0, 1, 2, 17, self.num_entries - 1, self.num_entries]
        parts = [self.run(token_ids[a:b], cache) for a, b in itertools.pairwise(borders)]
        assert cache.num_entries == self.num_entries
        self.close(torch.cat(parts), self.fresh(token_ids))

    def test_truncate_and_recompute_equals_a_fresh_forward(self) -> None:
        old, new = self.tokens(self.num_entries), self.tokens(self.num_entries, seed=1)
        new[:20] = old[:20]
        cache = self.base.new_cache(self.num_entries)
        self.run(old, cache)
        for num_kept in (20, 7, 0):
            cache.truncate(num_kept)
            assert cache.num_entries == num_kept
            self.close(self.run(new[num_kept:], cache), self.fresh(new)[num_kept:])
        with pytest.raises(InvalidValueError):
            cache.truncate(self.num_entries + 1)

    def test_far_and_fractional_positions_keep_their_distances(self) -> None:
        token_ids = self.tokens(self.num_entries)
        near = self.fresh(token_ids)
        for start in (0.5, 2.0**24 + 1, 2.0**40):
            far = self.run(token_ids, self.base.new_cache(self.num_entries), start=start)
            torch.testing.assert_close(far, near, atol=30 * self.tolerance, rtol=30 * self.tolerance)

    def test_caches_do_not_share_state(self) -> None:
        one, other = self.tokens(self.num_entries), self.tokens(self.num_entries, seed=1)
        caches = [self.base.new_cache(self.num_entries) for _ in range(2)]
        for cache, token_ids in zip(caches, (one, other), strict=True):
            self.run(token_ids[:-1], cache)
        for cache, token_ids in zip(caches, (one, other), strict=True):
            self.close(self.run(token_ids[-1:], cache), self.fresh(token_ids)[-1:])

    def test_surprise_agrees_with_the_logits(self) -> None:
        if not isinstance(self.base, SupportsSurprise):
            pytest.skip("this base does not score tokens")
        token_ids = self.tokens(3 * self.num_entries).reshape(3, -1)
        nats = self.base.surprise(token_ids)
        assert nats.shape == token_ids.shape
        assert nats.dtype == np.float32
        np.testing.assert_allclose(nats[:, 0], np.log(self.base.info.vocab_size), rtol=1e-5)
        for row, row_nats in zip(token_ids, nats, strict=True):
            log_probs = self.fresh(row).log_softmax(-1).cpu().numpy()
            expected = -log_probs[np.arange(len(row) - 1), row[1:]]
            np.testing.assert_allclose(row_nats[1:], expected, atol=10 * self.tolerance)

    def test_attention_mass_is_a_share_per_entry(self) -> None:
        if not isinstance(self.base, SupportsAttentionMass):
            pytest.skip("this base does not show its attention")
        cache = self.base.new_cache(self.num_entries)
        self.run(self.tokens(self.num_entries), cache)
        one, every = (self.base.attention_mass(cache, num_queries=count) for count in (1, self.num_entries))
        for mass in (one, every):
            assert mass.shape == (self.num_entries,)
            assert mass.dtype == np.float32
            assert (mass >= 0).all()
            assert (mass <= 1 + 1e-3).all()
        assert one.sum() >= 1 - 1e-2  # each head gives away all of its attention; max over heads cannot be less
        assert (every >= one - 1e-3).all()

    def test_patches_that_run_everything_again_are_a_fresh_forward(self) -> None:
        before, one, two = (self.tokens(size, seed=size) for size in (7, 12, 9))
        whole = np.concatenate([before, one, two])
        cache = self.base.new_cache(4)
        self.run(whole[7:], cache)

        self.patch(whole, cache, kept=np.arange(21), moved=7.0, run=np.arange(7))  # in front: all others move on
        self.patch(whole, cache, kept=np.r_[0:7, 19:28], run=np.arange(7, 19))
        logits = self.patch(whole, cache, kept=np.arange(19), run=np.arange(19, 28))

        assert cache.num_entries == len(whole)
        reference = self.base.new_cache(len(whole))
        expected = self.run(whole, reference)
        self.close(logits, expected[19:])
        if isinstance(self.base, SupportsAttentionMass):
            ours, theirs = (self.base.attention_mass(each, num_queries=5) for each in (cache, reference))
            np.testing.assert_allclose(ours, theirs, atol=10 * self.tolerance)
        for num_kept in (28, 16):
            for each in (cache, reference):
                each.truncate(num_kept)
            self.close(*(self.run(self.tokens(3), each) for each in (cache, reference)))

    def test_what_is_patched_in_looks_at_what_stands_before_it_alone(self) -> None:
        whole = self.tokens(30)
        cache = self.base.new_cache(30)
        self.run(np.concatenate([whole[:10], whole[18:]]), cache)
        moved = np.where(np.arange(22) < 10, 0.0, 8.0)
        logits = self.patch(whole, cache, kept=np.arange(22), moved=moved, run=np.arange(10, 18))
        self.close(logits, self.fresh(whole[:18])[10:])

    def test_a_patch_that_fails_leaves_the_cache_empty_and_usable(self) -> None:
        whole = self.tokens(20)
        cache = self.base.new_cache(20)
        self.run(whole[:12], cache)
        with pytest.raises(InvalidValueError):
            self.patch(whole, cache, kept=np.arange(10), run=np.arange(10, 14), positions=np.full(4, np.nan))
        if cache.num_entries:
            assert cache.num_entries == 12  # refused before anything was touched
        cache.truncate(0)
        self.close(self.run(whole, cache), self.fresh(whole))

    def patch(
        self,
        token_ids: npt.NDArray[np.uint32],
        cache: ModelCache,
        *,
        kept: npt.NDArray[np.int64],
        run: npt.NDArray[np.int64],
        moved: float | npt.NDArray[np.float64] = 0.0,
        positions: npt.NDArray[np.float64] | None = None,
    ) -> torch.Tensor:
        """Logits [T, V] of the tokens at the places ``run``, patched in among those that are kept."""
        if not isinstance(self.base, SupportsPatch) or not self.base.can_patch:
            pytest.skip("this base cannot patch")
        return self.base.patch(
            self.base.embed(token_ids[run]),
            run.astype(np.float64) if positions is None else positions,
            cache,
            kept_n=kept,
            moved_n=np.broadcast_to(np.asarray(moved, dtype=np.float64), kept.shape),
            places_T=run,
            num_logits=len(run),
        )

    def test_a_cache_that_was_saved_goes_on_bit_for_bit(self) -> None:
        if not isinstance(self.base, SupportsSavedCache):
            pytest.skip("this base does not save caches")
        cache = self.base.new_cache(30)
        self.run(self.tokens(22), cache)
        if isinstance(self.base, SupportsPatch) and self.base.can_patch:
            self.patch(self.tokens(30), cache, kept=np.arange(22), moved=8.0, run=np.arange(8))
        state = self.base.cache_state(cache)
        restored = self.base.cache_from(state, 40)
        assert restored.num_entries == cache.num_entries
        for _ in range(2):
            assert torch.equal(self.run(self.tokens(5), restored), self.run(self.tokens(5), cache))
        assert self.base.cache_from(self.base.cache_state(self.base.new_cache(3)), 3).num_entries == 0
        name = next(iter(state))
        for broken in (state[name][:, :, :3], state[name].to(torch.float64)):
            with pytest.raises(InvalidValueError, match=name):
                self.base.cache_from({**state, name: broken}, 40)
        with pytest.raises(InvalidValueError, match="lie"):
            self.base.cache_from({**state, "slots": torch.zeros(3, dtype=torch.int64)}, 40)

    def test_a_batch_of_sessions_is_each_of_them_alone(self) -> None:
        if not isinstance(self.base, SupportsBatches):
            pytest.skip("this base has no batches")
        lengths = (3, 17, 9)
        together, alone = ([self.base.new_cache(4) for _ in lengths] for _ in range(2))
        for caches in (together, alone):
            for size, cache in zip(lengths, caches, strict=True):
                self.run(self.tokens(size, seed=size), cache)
        for step in range(3):
            token_ids = self.tokens(len(lengths), seed=100 + step)
            positions = np.array([float(cache.num_entries) for cache in together])
            logits = self.base.decode_batch(self.base.embed(token_ids), positions, together)
            each = [self.run(token_ids[n : n + 1], cache) for n, cache in enumerate(alone)]
            self.close(logits, torch.cat(each))
            assert [cache.num_entries for cache in together] == [size + step + 1 for size in lengths]
        self.close(*(self.run(self.tokens(4), caches[1]) for caches in (together, alone)))
        with pytest.raises(InvalidValueError, match="not all different"):
            self.base.decode_batch(self.base.embed(self.tokens(2)), np.zeros(2), [together[0], together[0]])

    def test_bad_input_is_refused_and_changes_nothing(self) -> None:
        cache = self.base.new_cache(8)
        self.run(self.tokens(5), cache)
        for bad in ([self.base.info.vocab_size], [-1], [0.5], [[1, 2]]):
            with pytest.raises(InvalidTokensError):
                self.base.embed(np.asarray(bad))
        inputs_TD = self.base.embed(self.tokens(3))
        for positions, num_logits in (([0.0, 1.0], 1), ([0.0, 1.0, np.nan], 1), ([0.0, 1.0, 2.0], 4)):
            with pytest.raises(InvalidValueError):
                self.base.forward(inputs_TD, np.asarray(positions), cache, num_logits=num_logits)
        assert cache.num_entries == 5
