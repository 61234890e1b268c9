"""Scattered positions as stretches."""

from __future__ import annotations

import numpy as np

from megacontext.tree.runs import joined_spans, runs_of


def test_runs():
    assert runs_of(np.array([], np.int64)) == []
    assert runs_of(np.array([4])) == [(4, 5)]
    assert runs_of(np.array([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]


def test_spans_that_follow_one_another_become_one_stretch():
    assert joined_spans([]) == ([], [])
    assert joined_spans([(0, 4), (4, 6), (9, 10)]) == ([(0, 6), (9, 10)], [(0, 0, 4), (0, 4, 6), (1, 0, 1)])
    assert joined_spans([(4, 8), (0, 4)]) == ([(4, 8), (0, 4)], [(0, 0, 4), (1, 0, 4)])
