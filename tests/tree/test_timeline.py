"""The timeline of a window: order, spacing, and an end within reach."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.tree.timeline import GIST_EXTENT, timeline


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
