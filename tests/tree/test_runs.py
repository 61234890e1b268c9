"""Scattered positions as stretches."""

from __future__ import annotations

import numpy as np

from megacontext.tree.runs import runs_of


def test_runs():
    assert runs_of(np.array([], np.int64)) == []
    assert runs_of(np.array([4])) == [(4, 5)]
    assert runs_of(np.array([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]
