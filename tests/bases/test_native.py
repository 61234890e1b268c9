"""What the native base does beyond the port: the lens, and what it refuses. Its gists are tested with their gister."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from megacontext.bases.native import NativeBase
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.ports.base import SupportsLearnedLens
from megacontext.ports.words import WordsInCommon
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


def some_words(*, num_spans: int, num_queries: int) -> WordsInCommon:
    """Half of all words in each span; some of them stand at two places of the query, some places have none."""
    rng, num_columns = np.random.default_rng(3), 3 * num_queries + 1
    is_found_nC = rng.random((num_spans, num_columns)) < 0.5
    is_found_nC[:, -1] = False
    columns = np.nonzero(is_found_nC)[1]
    return WordsInCommon(
        num_columns=num_columns,
        starts_n=np.concatenate([[0], is_found_nC.sum(1).cumsum()[:-1]]),
        columns_m=columns,
        amounts_m=rng.random(len(columns)).astype(np.float32),
        columns_4Q=rng.integers(0, num_columns, (4, num_queries)),
    )


def test_evidence_is_the_lens_nets_own() -> None:
    base = tiny_core_base()
    assert isinstance(base, SupportsLearnedLens)
    cache = shown(base)
    features = np.random.default_rng(1).random((3, len(base.lens_features))).astype(np.float32)
    words = some_words(num_spans=3, num_queries=8)
    vectors = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(2)).half()
    lens, states = base._lens_net, cache.last_states(cache.num_entries)
    assert base.lens_query_tokens == lens.config.query_tokens
    with torch.no_grad():
        queries = lens.queries(states[-6:])
        found = lens.found(queries, lens.keys(vectors[:, 0].float()))
        blind = lens(queries, found, None, torch.from_numpy(features))
        in_common = lens.in_common(queries, torch.from_numpy(words.by_token()))
        reading = lens(queries, found, in_common, torch.from_numpy(features))
    keys, query = base.lens_keys(vectors.numpy()), base.lens_query(cache, num_queries=6)
    for given, expected in ((None, blind), (words, reading)):
        said = query.evidence(keys, features, given)
        np.testing.assert_allclose(said, expected.numpy(), atol=1e-6)
        twice = query.evidence(keys.repeat(1, 2, 1, 1), features, given)
        np.testing.assert_allclose(twice, said, atol=1e-6, err_msg="of two vectors the better one counts")
    assert not torch.allclose(blind, reading)
    nothing, stakes = query.stakes
    assert nothing == pytest.approx(float(queries.nothing), abs=1e-6)
    np.testing.assert_allclose(stakes, queries.stakes_L.numpy(), atol=1e-6)
    assert (stakes > 0).all()


def test_of_no_spans_there_is_no_evidence() -> None:
    base = tiny_core_base()
    query = base.lens_query(shown(base), num_queries=6)
    keys = base.lens_keys(np.zeros((0, 1, 32), dtype=np.float16))
    features = np.zeros((0, len(base.lens_features)), dtype=np.float32)
    for words in (None, replace(some_words(num_spans=1, num_queries=8), starts_n=np.zeros(0, dtype=np.int64))):
        said = query.evidence(keys, features, words)
        assert (said.shape, said.dtype) == ((0,), np.float32)


def test_what_was_asked_stays_as_the_window_goes_on() -> None:
    base = tiny_core_base()
    cache = shown(base)
    query = base.lens_query(cache, num_queries=6)
    keys = base.lens_keys(np.random.default_rng(0).normal(size=(2500, 1, 32)).astype(np.float16))  # in three slices
    features = np.zeros((2500, len(base.lens_features)), dtype=np.float32)
    said = query.evidence(keys, features)
    cache.truncate(20)
    np.testing.assert_array_equal(query.evidence(keys, features), said)
    alone = query.evidence(keys[2401:2402], features[:1])
    np.testing.assert_allclose(alone, said[2401:2402], rtol=1e-4, atol=1e-5)


def test_states_are_the_same_however_the_window_was_filled() -> None:
    base = tiny_core_base()
    whole, parts = shown(base), shown(base, pieces=(0, 17, 18, 40))
    torch.testing.assert_close(whole.last_states(40), parts.last_states(40), atol=1e-4, rtol=1e-4)
    parts.truncate(20)
    torch.testing.assert_close(parts.last_states(5), whole.last_states(25)[:5], atol=1e-4, rtol=1e-4)


def test_what_is_missing_is_named() -> None:
    plain = tiny_core_base()
    bare = NativeBase(Core(TINY_CORE), byte_codec(), plain.info)
    cache = shown(bare)
    with pytest.raises(BaseModelError, match="has no LensNet; use a base"):
        bare.lens_keys(np.zeros((1, 1, 32), np.float16))
    with pytest.raises(BaseModelError, match="has no LensNet; use a base"):
        bare.lens_query(cache, num_queries=1)
    with pytest.raises(BaseModelError, match="has no GistNet; use a base"):
        bare.gists_of_tokens(np.zeros((1, 8), dtype=np.uint32), gist_width=1)
    with pytest.raises(InvalidValueError, match="num_queries is 41; it must be between 1 and the 40"):
        plain.lens_query(shown(plain), num_queries=41)
    with pytest.raises(InvalidValueError, match="give one per entry"):
        plain.forward(plain.embed(np.zeros(3, np.uint32)), np.arange(2.0), plain.new_cache(3))
    with pytest.raises(InvalidValueError, match="give finite numbers"):
        plain.forward(
            plain.embed(np.zeros(1, np.uint32)),
            np.arange(1.0),
            plain.new_cache(3),
            spreads_T=np.array([-1.0], dtype=np.float32),
        )
