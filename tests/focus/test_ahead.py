"""What is fetched ahead."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.focus.ahead import likely_next
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry

TREE = TreeGeometry(8)


CLOSED = [(1, 8, 16), (2, 0, 64)]  # what stands for rows of the cut once they close


def test_neighbours_of_what_is_open_and_what_was_valued_next_best():
    far = [(1, start, start + 8) for start in range(64, 120, 8)]
    cut = Cut.of([(1, 0, 8), (0, 8, 16), (1, 16, 24), (1, 24, 32), (1, 32, 40), (1, 40, 48), (1, 48, 56), *far])
    utility = np.array([0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6])
    beside = [(0, 0, 8), *((0, start, start + 8) for start in range(16, 48, 8))]
    assert likely_next(TREE, cut, utility, limit=20).rows() == [*beside, (0, 64, 72), *CLOSED]
    assert likely_next(TREE, cut, utility, limit=2).rows() == [(0, 0, 8), (0, 64, 72), *CLOSED]


def test_a_higher_node_stands_for_its_children():
    cut = Cut.of([(0, 0, 8), (2, 64, 128)])
    children = [(1, start, start + 8) for start in range(64, 128, 8)]
    assert likely_next(TREE, cut, np.zeros(2), limit=20).rows() == [*children, (1, 0, 8)]


def test_where_all_is_open_it_can_only_close_and_nothing_has_nothing():
    assert likely_next(TREE, Cut.of([(0, 0, 8), (0, 8, 11)]), np.ones(2), limit=4).rows() == [(1, 0, 8)]
    assert len(likely_next(TREE, Cut.of([]), np.zeros(0), limit=4)) == 0


@given(st.integers(0, 3000), st.integers(0, 2**32 - 1), st.integers(1, 80))
def test_guesses_are_children_and_parents_of_rows(num_tokens, seed, limit):
    config = WorkingContextConfig(budget_entries=200, recent_tokens=16)
    cut = WorkingContext(TREE, num_tokens=num_tokens, config=config).cut
    likely = likely_next(TREE, cut, np.random.default_rng(seed).random(len(cut)).round(1), limit=limit).rows()
    assert len(set(likely)) == len(likely)
    num_children, sets_above = 0, []
    for level, start, stop in likely:
        row = int(np.searchsorted(cut.starts, start, side="right")) - 1
        if cut.levels[row] == level + 1:
            num_children += 1
            assert stop <= cut.stops[row]
        else:
            sets_above.append((level, start // (8 * (stop - start))))
            inside = (cut.starts >= start) & (cut.stops <= stop)
            assert level - 1 in cut.levels[inside]
            assert stop <= num_tokens
    assert num_children <= limit
    assert len(set(sets_above)) == len(sets_above)
