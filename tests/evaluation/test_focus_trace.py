"""Pictures show the cut as it is."""

from __future__ import annotations

import numpy as np
from tests.evaluation.doubles import small_trace

from megacontext.evaluation.focus_trace import FocusStep, joined_sources, raster, ribbons
from megacontext.tree.cuts import Cut


def _step() -> FocusStep:
    cut = Cut.of([(2, 0, 1024), (1, 1024, 1056), (0, 1056, 1088), (0, 1088, 1100)])
    return FocusStep(label="", cut=cut, num_tokens=1100, gist_width=2)


def test_ribbons_tile_history_and_window() -> None:
    runs = [(run.level, run.start, run.stop, run.window_start, run.window_stop) for run in ribbons(_step())]
    assert runs == [(2, 0, 1024, 0, 2), (1, 1024, 1056, 2, 4), (0, 1056, 1100, 4, 48)]


def test_a_column_shows_the_finest_level_in_it() -> None:
    levels = raster([_step()], start=0, stop=1100, num_columns=1100)[0]
    assert (levels[:1024] == 2).all()
    assert (levels[1024:1056] == 1).all()
    assert (levels[1056:] == 0).all()
    assert raster([_step()], start=0, stop=1100, num_columns=2)[0].tolist() == [2, 0]


def test_what_was_not_yet_history_is_marked() -> None:
    levels = raster([_step()], start=1000, stop=1200, num_columns=200, missing=-1)[0]
    assert levels[:24].tolist() == [2] * 24
    assert (levels[100:] == -1).all()


def test_steps_are_taken_from_working_contexts() -> None:
    trace = small_trace(2)
    assert trace.num_tokens == 40_000
    assert trace.num_levels == 3
    levels = raster(trace.steps, start=0, stop=40_000, num_columns=400)
    assert levels[0, 50] == 0
    assert levels[1, 100] == 0
    assert np.count_nonzero(levels[0] == 0) < 40


def test_modules_in_a_row_are_one_stretch() -> None:
    assert joined_sources(small_trace()) == [(0, 20_000, "Dracula", "book"), (20_000, 40_000, "source code", "code")]
