"""The timeline of a window: order, spacing, and an end within reach."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.tree.timeline import GIST_EXTENT, timeline, window_gist_extent


def test_raw_tokens_alone_are_numbered_in_order() -> None:
    positions, extents = timeline(np.ones(50, dtype=np.int64))
    assert positions.tolist() == list(range(50))
    assert (extents == 1).all()


def test_a_gist_takes_a_few_positions_and_stands_in_the_middle_of_them() -> None:
    positions, extents = timeline(np.array([1, 32, 1024, 2, 1, 1]))
    assert extents.tolist() == [1, 4, 4, 2, 1, 1]
    assert positions.tolist() == [0.0, 2.5, 6.5, 9.5, 11.0, 12.0]


@given(st.lists(st.sampled_from([1, 2, 8, 32, 1024, 32**6]), min_size=1, max_size=200))
def test_rows_tile_the_timeline_in_order(widths: list[int]) -> None:
    positions, extents = timeline(np.array(widths))
    starts, stops = positions - extents / 2, positions + extents / 2
    np.testing.assert_allclose(starts[1:], stops[:-1])
    assert starts[0] == -0.5
    assert stops[-1] <= GIST_EXTENT * len(widths)
    runs = np.array(widths[1:]) * np.array(widths[:-1]) == 1
    assert (np.diff(positions)[runs] == 1).all()  # neighbours in an opened block are one apart


@given(st.integers(1, 9_000), st.integers(1, 9_000))
def test_a_window_of_a_third_gists_ends_within_what_was_learned_if_its_rows_do(capacity: int, learned: int) -> None:
    extent = window_gist_extent(capacity, learned)
    assert 1.0 <= extent <= GIST_EXTENT
    num_gists = capacity // 3
    _, extents = timeline(np.array([1024] * num_gists + [1] * (capacity - num_gists)), gist_extent=extent)
    assert extents.sum() <= max(learned, capacity) + 1e-6


def test_gists_keep_their_extent_where_nothing_is_known_or_all_fits() -> None:
    assert window_gist_extent(1024, 0) == window_gist_extent(0, 2048) == window_gist_extent(1024, 2048) == GIST_EXTENT
