from __future__ import annotations

import pytest

from megacontext.errors import InvalidScoresError, InvalidValueError
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.focus.refocusing import refocus


def test_the_given_spans_are_shown_raw(plain):
    memory = plain.TextMemory("word " * 8000)
    wc = plain.working_context(memory)
    scores = OracleLens(spans=[(100, 110), (5000, 5008)]).score(plain.request(memory, wc=wc))
    refocus(wc, scores, make_allocator("greedy"))
    rows = wc.cut.rows()
    assert {(0, 96, 104), (0, 104, 112), (0, 5000, 5008)} <= set(rows)


def test_a_span_outside_the_history_is_refused_at_the_refocus(plain):
    memory = plain.TextMemory("word " * 80)
    wc = plain.working_context(memory)
    scores = OracleLens(spans=[(100, 111)]).score(plain.request(memory, wc=wc))
    with pytest.raises(InvalidScoresError, match=r"nomination \[100, 111\)"):
        refocus(wc, scores, make_allocator("greedy"))


def test_an_oracle_that_nobody_tells_is_no_oracle(plain):
    request = plain.request(plain.TextMemory("word " * 80))
    lens = OracleLens()
    with pytest.raises(InvalidValueError, match=r"was not told where the answer stands; set its spans .* such as auto"):
        lens.score(request)
    lens.spans = ()
    assert not lens.score(request).nominations
