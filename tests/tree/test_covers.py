from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import InvalidValueError
from megacontext.tree.covers import coarsest_cover, cover_cost, smallest_budget
from megacontext.tree.geometry import TreeGeometry

BLOCK_TOKENS = st.integers(8, 128)


@given(st.integers(8, 20), st.integers(0, 600), st.data())
def test_the_cover_is_the_plain_trees_coarsest(plain_tree, block_tokens, num_tokens, data):
    start = data.draw(st.integers(0, num_tokens))
    stop = data.draw(st.integers(start, num_tokens))
    cover = [(node.level, node.index) for node in coarsest_cover(TreeGeometry(block_tokens), start, stop)]
    assert cover == plain_tree.coarsest(num_tokens, block_tokens, start, stop)


@given(BLOCK_TOKENS, st.integers(0, 10**12), st.integers(1, 8))
def test_the_cost_is_that_of_the_nodes_at_any_size(block_tokens, num_tokens, gist_width):
    tree = TreeGeometry(block_tokens)
    nodes = list(coarsest_cover(tree, 0, num_tokens))
    cost = sum(gist_width if node.level else 1 for node in nodes)
    assert smallest_budget(tree, num_tokens, gist_width) == cover_cost(tree, 0, num_tokens, gist_width) == cost
    assert cost <= (block_tokens - 1) * gist_width * tree.num_levels(num_tokens)


@given(BLOCK_TOKENS, st.integers(0, 10**15), st.integers(0, 10**12))
def test_covers_tile_their_span_with_aligned_nodes(block_tokens, start, num_tokens):
    tree = TreeGeometry(block_tokens)
    position = start
    for node in coarsest_cover(tree, start, start + num_tokens):
        assert tree.span(node)[0] == position
        position = tree.span(node)[1]
    assert position == start + num_tokens


def test_the_smallest_budget_of_a_trillion_tokens_is_small():
    assert smallest_budget(TreeGeometry(32), 10**12) == sum((10**12 // 32**level) % 32 for level in range(9))


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4)])
def test_a_span_that_is_none_is_an_error(start, stop):
    with pytest.raises(InvalidValueError, match="not a range of token positions"):
        list(coarsest_cover(TreeGeometry(), start, stop))
