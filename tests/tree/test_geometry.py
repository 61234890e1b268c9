from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import InvalidValueError
from megacontext.tree.geometry import MAX_BLOCK_TOKENS, MIN_BLOCK_TOKENS, SEGMENT_TARGET_TOKENS, Node, TreeGeometry

BLOCK_TOKENS = st.integers(MIN_BLOCK_TOKENS, MAX_BLOCK_TOKENS)
FEW_TOKENS = st.integers(0, 700)


@given(BLOCK_TOKENS, FEW_TOKENS)
def test_levels_hold_the_complete_nodes_of_the_plain_tree(plain_tree, block_tokens, num_tokens):
    tree = TreeGeometry(block_tokens)
    levels = plain_tree.levels(num_tokens, block_tokens)
    assert tree.num_levels(num_tokens) == len(levels)
    for level, nodes in enumerate(levels):
        assert tree.num_nodes(level, num_tokens) == len(nodes)
        for index, tokens in enumerate(nodes):
            node = Node(level, index)
            assert tree.span(node) == (tokens[0], tokens[-1] + 1)
            if level:
                children = [plain_tree.levels(num_tokens, block_tokens)[level - 1][at] for at in tree.children(node)]
                assert [token for child in children for token in child] == tokens


@given(BLOCK_TOKENS, st.integers(0, 6), st.integers(0, 10**12))
def test_a_parent_contains_its_children_and_their_span(block_tokens, level, index):
    tree = TreeGeometry(block_tokens)
    node = Node(level, index)
    parent = tree.parent(node)
    assert index in tree.children(parent)
    assert tree.span(parent)[0] <= tree.span(node)[0] < tree.span(node)[1] <= tree.span(parent)[1]
    assert tree.ancestor(node, level + 1) == parent
    assert tree.ancestor(node, level + 2) == tree.parent(parent)


def test_levels_have_no_limit():
    tree = TreeGeometry(32)
    assert tree.num_levels(32**20) == 21
    assert tree.num_levels(32**20 - 1) == 20


@pytest.mark.parametrize("block_tokens", range(MIN_BLOCK_TOKENS, MAX_BLOCK_TOKENS + 1))
def test_a_segment_is_whole_subtrees_of_the_widest_level_that_fits(block_tokens):
    tree = TreeGeometry(block_tokens)
    subtree = max(tree.width(level) for level in range(20) if tree.width(level) <= SEGMENT_TARGET_TOKENS)
    assert tree.segment_tokens % subtree == 0
    assert SEGMENT_TARGET_TOKENS - subtree < tree.segment_tokens <= SEGMENT_TARGET_TOKENS


@pytest.mark.parametrize("block_tokens", [MIN_BLOCK_TOKENS - 1, MAX_BLOCK_TOKENS + 1, 0, -32, 8.5])
def test_block_tokens_outside_its_limits_names_value_and_limits(block_tokens):
    with pytest.raises(InvalidValueError, match=rf"{block_tokens}; .* from {MIN_BLOCK_TOKENS} to {MAX_BLOCK_TOKENS}"):
        TreeGeometry(block_tokens)
