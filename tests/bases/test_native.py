"""What the native base does beyond the port: the lens, and what it refuses. Its gists are tested with their gister."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from megacontext.bases.native import NativeBase
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.ports.base import SupportsLearnedLens
from megacontext.testing.fake_base import byte_codec
from megacontext.testing.fake_core import TINY_CORE, tiny_core_base


def shown(base: NativeBase, num_entries: int = 40, *, pieces: tuple[int, ...] = (0, 40)) -> object:
    """A cache of some tokens and gists, filled in pieces."""
    rng = np.random.default_rng(0)
    inputs = base.embed(rng.integers(0, 256, num_entries).astype(np.uint32))
    positions = np.arange(num_entries, dtype=np.float64)
    spreads = np.where(positions % 5 == 2, 1.2, 0.0).astype(np.float32)
    cache = base.new_cache(num_entries)
    for start, stop in itertools.pairwise(pieces):
        part = slice(start, stop)
        base.forward(inputs[part], positions[part], cache, spreads_T=spreads[part])
    return cache


def test_evidence_is_the_lens_nets_own() -> None:
    base = tiny_core_base()
    assert isinstance(base, SupportsLearnedLens)
    cache = shown(base)
    features = np.random.default_rng(1).random((3, len(base.lens_features))).astype(np.float32)
    words = np.random.default_rng(3).random((3, 6, 4)).astype(np.float32)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(2)).half()
    lens, states = base._lens_net, cache.states_SD
    assert base.lens_query_tokens == lens.config.query_tokens
    with torch.no_grad():
        queries, keys = lens.queries(states[-6:]), lens.keys(vectors.float())
        blind = lens(lens.matches(queries, keys), torch.from_numpy(features))
        reading = lens(lens.matches(queries, keys, torch.from_numpy(words)), torch.from_numpy(features))
    for given, expected in ((None, blind), (words, reading)):
        said = base.evidence_of_gists(cache, vectors.numpy(), features, given, num_queries=6)
        np.testing.assert_allclose(said, expected.numpy(), atol=1e-6)
    assert not torch.allclose(blind, reading)
    nothing, stakes = base.stakes(cache, num_queries=6)
    assert nothing == pytest.approx(float(queries.nothing), abs=1e-6)
    np.testing.assert_allclose(stakes, queries.stakes_L.numpy(), atol=1e-6)
    assert (stakes > 0).all()


def test_states_are_the_same_however_the_window_was_filled() -> None:
    base = tiny_core_base()
    whole, parts = shown(base), shown(base, pieces=(0, 17, 18, 40))
    torch.testing.assert_close(whole.states_SD, parts.states_SD, atol=1e-4, rtol=1e-4)
    parts.truncate(20)
    assert len(parts.states_SD) == 20


def test_what_is_missing_is_named() -> None:
    plain = tiny_core_base()
    bare = NativeBase(Core(TINY_CORE), byte_codec(), plain.info)
    cache = shown(bare)
    features = np.zeros((1, len(bare.lens_features)), dtype=np.float32)
    with pytest.raises(BaseModelError, match="has no LensNet; use a base"):
        bare.evidence_of_gists(cache, np.zeros((1, 32), np.float16), features, num_queries=1)
    with pytest.raises(BaseModelError, match="has no LensNet; use a base"):
        bare.stakes(cache, num_queries=1)
    with pytest.raises(BaseModelError, match="has no GistNet; use a base"):
        bare.gists_of_tokens(np.zeros((1, 8), dtype=np.uint32), gist_width=1)
    with pytest.raises(InvalidValueError, match="num_queries is 41; it must be between 1 and the 40"):
        plain.evidence_of_gists(shown(plain), np.zeros((1, 32), np.float16), features, num_queries=41)
    with pytest.raises(InvalidValueError, match="give one per entry"):
        plain.forward(plain.embed(np.zeros(3, np.uint32)), np.arange(2.0), plain.new_cache(3))
    with pytest.raises(InvalidValueError, match="give finite numbers"):
        plain.forward(
            plain.embed(np.zeros(1, np.uint32)),
            np.arange(1.0),
            plain.new_cache(3),
            spreads_T=np.array([-1.0], dtype=np.float32),
        )
