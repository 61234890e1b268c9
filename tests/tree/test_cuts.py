from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import InvariantError
from megacontext.tree.covers import cover_cost
from megacontext.tree.cuts import (
    Cut,
    coarsest_cut,
    concatenate_cuts,
    cut_cost,
    entry_costs,
    raw_cut,
    validate_cut,
)
from megacontext.tree.geometry import TreeGeometry

TREE = TreeGeometry(8)


@given(st.integers(8, 128), st.integers(0, 10**12), st.integers(1, 7))
def test_the_coarsest_cut_is_legal_and_costs_what_the_cover_does(block_tokens, num_tokens, gist_width):
    tree = TreeGeometry(block_tokens)
    cut = coarsest_cut(tree, 0, num_tokens)
    cost = cover_cost(tree, 0, num_tokens, gist_width)
    validate_cut(tree, cut, num_tokens, gist_width=gist_width, budget_entries=cost)
    assert cut_cost(cut, gist_width) == cost


@given(st.integers(8, 16), st.integers(0, 40), st.integers(0, 600), st.integers(0, 7))
def test_a_coarsest_cut_of_an_aligned_span_is_the_plain_trees(plain_tree, block_tokens, first_block, num, extra):
    start = first_block * block_tokens
    stop = start + num + extra % block_tokens
    rows = []
    for level, index in plain_tree.coarsest(stop, block_tokens, start, stop):
        width = block_tokens**level
        if level:
            rows.append((level, index * width, (index + 1) * width))
    tail = stop // block_tokens * block_tokens
    if tail < stop:
        rows.append((0, max(tail, start), stop))
    assert coarsest_cut(TreeGeometry(block_tokens), start, stop).rows() == rows


def test_rows_cost_a_gist_or_their_tokens():
    cut = Cut.of([(2, 0, 64), (1, 64, 72), (0, 72, 80), (0, 80, 83)])
    assert entry_costs(cut, 3).tolist() == [3, 3, 8, 3]
    assert cut_cost(cut, 1) == 13


def test_raw_blocks_and_neighbouring_cuts_join():
    assert raw_cut(TREE, 8, 20).rows() == [(0, 8, 16), (0, 16, 20)]
    assert concatenate_cuts([Cut.of([(1, 0, 8)]), raw_cut(TREE, 8, 12)]) == Cut.of([(1, 0, 8), (0, 8, 12)])
    assert concatenate_cuts([]) == Cut.of([])
    assert Cut.of([(1, 0, 8)]) != Cut.of([(0, 0, 8)])


def test_an_empty_history_has_an_empty_cut_and_no_other():
    empty = Cut.of([])
    validate_cut(TREE, empty, 0, budget_entries=0)
    assert empty == coarsest_cut(TREE, 0, 0) == raw_cut(TREE, 0, 0)
    assert (len(empty), empty.rows(), cut_cost(empty, 3)) == (0, [], 0)
    assert [part.dtype for part in (empty.levels, empty.starts, empty.stops)] == [np.int64] * 3
    with pytest.raises(InvariantError, match="row 0 of 0 should start at 0, starts at 1"):
        validate_cut(TREE, empty, 1)
    for row in [(0, 0, 8), (1, 0, 8), (0, 0, 0)]:
        with pytest.raises(InvariantError, match="cover"):
            validate_cut(TREE, Cut.of([row]), 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "cover: row 0 of 0 should start at 0, starts at 83"),
        ([(1, 8, 16), (0, 16, 19)], "cover: row 0 of 2 should start at 0, starts at 8"),
        ([(1, 0, 8), (2, 64, 128)], "cover: row 1 of 2 should start at 8, starts at 64"),
        ([(2, 0, 64), (1, 56, 64)], "cover: row 1 of 2 should start at 64, starts at 56"),
        ([(2, 0, 64), (1, 64, 72)], "cover: row 2 of 2 should start at 72, starts at 83"),
        ([(0, 0, 4), (0, 4, 12), (2, 12, 76), (0, 76, 83)], r"alignment: row 0 is level 0 over \[0, 4\)"),
        ([(1, 0, 8), (2, 8, 72), (1, 72, 80), (0, 80, 83)], r"alignment: row 1 is level 2 over \[8, 72\)"),
        ([(2, 0, 64), (1, 64, 72), (1, 72, 80), (1, 80, 83)], r"alignment: row 3 is level 1 over \[80, 83\)"),
        ([(2, 0, 64), (0, 64, 80), (0, 80, 83)], r"alignment: row 1 is level 0 over \[64, 80\)"),
        ([(-1, 0, 64), (0, 64, 83)], "cover: a row of level -1"),
        ([(2, 0, 64), (0, 64, 72), (0, 72, 80), (0, 80, 83)], "budget: the cut costs 20 entries, the budget is 14"),
    ],
)
def test_an_illegal_cut_is_an_error_with_the_evidence(rows, message):
    with pytest.raises(InvariantError, match=message):
        validate_cut(TREE, Cut.of(rows), 83, budget_entries=14)


def test_rows_of_unequal_length_are_an_error():
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(InvariantError, match="0 levels, 1 starts and 0 stops"):
        validate_cut(TREE, Cut(none, np.zeros(1, dtype=np.int64), none), 0)


def test_tokens_two_to_five_cannot_become_the_gist_of_zero_to_three():
    """A gist stands for a whole aligned node, and nothing else."""
    shifted = Cut.of([(0, 0, 4), (1, 4, 12), (0, 12, 16)])
    with pytest.raises(InvariantError, match="alignment"):
        validate_cut(TREE, shifted, 16)
