from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.focus.pins import Spans

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def tokens(spans):
    return {token for start, stop in spans for token in range(start, stop)}


@given(SPANS, SPANS)
def test_spans_behave_as_sets_of_tokens(first, second):
    spans = Spans.of(first)
    assert tokens(spans.spans) == tokens(first)
    assert tokens(spans.plus(*second).spans) == tokens(first) | tokens(second)
    for start, stop in second:
        assert tokens(spans.minus(start, max(start, stop)).spans) == tokens(first) - tokens([(start, stop)])


@given(SPANS)
def test_spans_are_sorted_apart_and_not_empty(given_spans):
    spans = Spans.of(given_spans).spans
    assert all(start < stop for start, stop in spans)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


@given(SPANS, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=9))
def test_touch_is_an_intersection(given_spans, ranges):
    starts = np.array([start for start, _ in ranges], dtype=np.int64)
    stops = np.array([start + length for start, length in ranges], dtype=np.int64)
    touched = Spans.of(given_spans).touch(starts, stops).tolist()
    assert touched == [
        bool(tokens(given_spans) & set(range(start, stop))) for start, stop in zip(starts, stops, strict=True)
    ]


@given(SPANS, st.integers(8, 20), st.integers(0, 60))
def test_whole_blocks_grow_outwards_within_the_history(given_spans, block_tokens, num_tokens):
    grown = tokens(Spans.of(given_spans).whole_blocks(block_tokens, num_tokens).spans)
    blocks = {token // block_tokens for token in tokens(given_spans)}
    assert grown == {token for token in range(num_tokens) if token // block_tokens in blocks}
