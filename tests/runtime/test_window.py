from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacontext.errors import UnknownNameError
from megacontext.runtime.window import WindowReader, WindowRows, common_prefix
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry

TREE = TreeGeometry(8)
CUT = Cut.of([(1, 0, 8), (0, 8, 16), (2, 64, 128), (0, 128, 131)])


def read(window, rows, first=0):
    placement = window.place(rows, num_tokens=131)
    return window.read(rows, np.arange(first, len(rows)), placement), placement.next_position


def test_rows_of_a_cut_are_raw_tokens_and_gist_vectors_in_window_order():
    keys = WindowRows.of_cut(CUT, gist_width=2).keys.tolist()
    assert keys[:2] == [[1, 0, 0], [1, 0, 1]]
    assert keys[2:10] == [[0, position, 0] for position in range(8, 16)]
    assert keys[10:] == [[2, 64, 0], [2, 64, 1], [0, 128, 0], [0, 129, 0], [0, 130, 0]]


def test_common_prefix_ends_at_the_first_difference():
    rows = WindowRows.of_cut(CUT, gist_width=1)
    other = WindowRows.of_cut(Cut.of([(1, 0, 8), (0, 8, 16), (1, 64, 72)]), gist_width=1)
    assert common_prefix(rows, other) == 9
    assert common_prefix(rows, rows) == len(rows)
    assert common_prefix(rows, WindowRows.of_cut(Cut.of([]), gist_width=1)) == 0


@pytest.mark.parametrize("first", [0, 1, 5, 11])
def test_inputs_are_embeddings_and_gists_whatever_row_reading_begins_at(first, plain_reader):
    base = tiny_base()
    reader = plain_reader(np.arange(200), dim=32, gist_width=2)
    rows = WindowRows.of_cut(CUT, gist_width=2).then(WindowRows.of_scratch(np.array([7, 9], np.uint32)))
    inputs, next_position = read(WindowReader(TREE, reader, base, positions="window"), rows, first)

    gists = reader.gist_batch(np.array([1, 2]), np.array([0, 1])).vectors.astype(np.float32)
    raw = base.embed(np.array([*range(8, 16), 128, 129, 130, 7, 9], np.uint32)).numpy()
    expected = np.concatenate([gists[0], raw[:8], gists[1], raw[8:]])
    np.testing.assert_allclose(inputs.vectors.numpy(), expected[first:], atol=1e-6)
    np.testing.assert_array_equal(inputs.positions, np.arange(first, 17))
    spreads = np.array([12**-0.5] * 2 + [0.0] * 8 + [12**-0.5] * 2 + [0.0] * 5)
    if first <= 11:
        np.testing.assert_allclose(inputs.spreads, spreads[first:], atol=1e-6)
    assert next_position == 17


def test_global_positions_are_those_of_the_history_and_scratch_follows_it(plain_reader):
    reader = plain_reader(np.arange(200), dim=32, gist_width=2)
    rows = WindowRows.of_cut(CUT, gist_width=2).then(WindowRows.of_scratch(np.array([7, 9], np.uint32)))
    inputs, next_position = read(WindowReader(TREE, reader, tiny_base(), positions="global"), rows)
    assert inputs.positions.tolist() == [0.5, 1.5, *range(8, 16), 64.5, 65.5, 128, 129, 130, 131, 132]
    np.testing.assert_allclose(inputs.spreads[[0, 2, 10]], [4 * 12**-0.5, 0.0, 32 * 12**-0.5], rtol=1e-6)
    assert next_position == 133


def test_a_base_that_learned_on_the_timeline_is_given_it(plain_reader):
    reader = plain_reader(np.arange(200), dim=32, gist_width=2)
    rows = WindowRows.of_cut(CUT, gist_width=2).then(WindowRows.of_scratch(np.array([7, 9], np.uint32)))
    window = WindowReader(TREE, reader, tiny_core_base(), positions="auto")
    inputs, next_position = read(window, rows)
    assert inputs.positions.tolist() == [1.5, 5.5, *range(8, 16), 17.5, 21.5, 24, 25, 26, 27, 28]
    np.testing.assert_allclose(inputs.spreads[[0, 2, 10]], [4 * 12**-0.5, 0.0, 4 * 12**-0.5], rtol=1e-6)
    assert next_position == 29
    assert read(window, rows, 11)[0].positions.tolist() == inputs.positions[11:].tolist()
    plain, _ = read(WindowReader(TREE, reader, tiny_base(), positions="auto"), rows)
    assert plain.positions.tolist() == list(range(17))


@pytest.mark.parametrize("known", [{"learned_positions": 600}, {"learned_positions": 0, "max_positions": 600}])
def test_a_large_window_squeezes_gists_rather_than_end_behind_what_the_base_learned(plain_reader, known):
    reader = plain_reader(np.arange(200), dim=32, gist_width=2)
    rows = WindowRows.of_cut(CUT, gist_width=2)
    base = tiny_core_base()
    base.info = replace(base.info, **known)
    ends = []
    for capacity_entries in (300, 600, 1200):
        window = WindowReader(TREE, reader, base, positions="auto", capacity_entries=capacity_entries)
        ends.append(read(window, rows)[1])
    assert ends == [27, 15, 15]  # eleven tokens and four rows of gists: of four positions, of one, never of less


def test_unknown_position_mode_lists_the_known_ones(plain_reader):
    with pytest.raises(UnknownNameError, match="auto, global, timeline, window"):
        WindowReader(TREE, plain_reader([], dim=32), tiny_base(), positions="sideways")
