from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import InvalidScoresError
from megacontext.focus.scores import UtilityField, validate_scores
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import FocusScores, Nomination
from megacontext.tree.geometry import TreeGeometry

WC = WorkingContext(
    TreeGeometry(8), num_tokens=331, config=WorkingContextConfig(budget_entries=90, sink_tokens=0, recent_tokens=0)
)


@given(
    st.lists(st.floats(0, 10), min_size=WC.num_entries, max_size=WC.num_entries),
    st.lists(st.tuples(st.integers(0, 330), st.integers(1, 100), st.floats(0, 10)), max_size=5),
    st.lists(st.tuples(st.integers(0, 331), st.integers(0, 331)), max_size=5),
)
def test_utility_over_a_span_is_the_sum_over_its_tokens(utility, nominated, spans):
    per_token = np.zeros(331)
    for start, stop, whole in zip(WC.starts, WC.stops, utility, strict=True):
        per_token[start:stop] += whole / (stop - start)
    nominations = []
    for start, length, whole in nominated:
        stop = min(start + length, 331)
        nominations.append(Nomination(start=start, stop=stop, utility=whole))
        per_token[start:stop] += whole / (stop - start)
    field = UtilityField(WC.view(), FocusScores(utility=np.array(utility), nominations=nominations))
    for low, high in (sorted(span) for span in spans):
        measured = field.over(np.array([low]), np.array([high]))
        assert measured[0] == pytest.approx(per_token[low:high].sum(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("start", "stop", "utility", "message"),
    [
        (-1, 5, 1.0, r"nomination \[-1, 5\) is not a span of the 331 tokens"),
        (5, 5, 1.0, r"nomination \[5, 5\)"),
        (300, 332, 1.0, r"nomination \[300, 332\)"),
        (0, 8, float("nan"), "is nan"),
        (0, 8, float("inf"), "is inf"),
        (0, 8, -1.0, "is -1.0"),
        (0, 8, "1", "is '1'"),
        (0.5, 8, 1.0, r"start of a nomination is 0\.5; choose a whole number"),
        (0, None, 1.0, "stop of a nomination is None; choose a whole number"),
    ],
)
def test_bad_nominations_are_named(start, stop, utility, message):
    nomination = Nomination(start=start, stop=stop, utility=utility)
    with pytest.raises(InvalidScoresError, match=message):
        validate_scores(WC.view(), FocusScores(utility=np.ones(WC.num_entries), nominations=[nomination]))


def test_utilities_that_add_up_to_more_than_a_number_are_named():
    most = Nomination(start=0, stop=8, utility=1e308)
    scores = FocusScores(utility=np.ones(WC.num_entries), nominations=[most, replace(most, stop=16)])
    with pytest.raises(InvalidScoresError, match="the utilities together are more than a float64 holds"):
        validate_scores(WC.view(), scores)


@pytest.mark.parametrize(
    ("utility", "message"),
    [
        (np.ones((WC.num_entries, 1)), "have shape"),
        (np.array(1.0), "have shape"),
        (np.array(["a"] * WC.num_entries), "give floating-point utilities"),
    ],
)
def test_scores_of_the_wrong_shape_or_kind_are_refused(utility, message):
    with pytest.raises(InvalidScoresError, match=message):
        validate_scores(WC.view(), FocusScores(utility=utility))


def test_what_is_no_score_at_all_is_refused():
    with pytest.raises(InvalidScoresError, match="a lens gives FocusScores"):
        validate_scores(WC.view(), None)


def test_nothing_is_said_of_what_came_since():
    """A cut that grew: its new entries are worth nothing until a lens has looked."""
    field = UtilityField(WC.view(), FocusScores(utility=np.ones(WC.num_entries)))
    starts, stops = np.array([300, 331, 331]), np.array([331, 400, 4000])
    assert field.over(starts, stops).tolist()[1:] == [0.0, 0.0]
    assert field.over(np.array([0]), np.array([4000]))[0] == pytest.approx(WC.num_entries)
