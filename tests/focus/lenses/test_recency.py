from __future__ import annotations

import numpy as np
import pytest

from megacontext.focus.lenses.recency import RecencyLens


def test_later_tokens_matter_more_and_all_together_one(plain):
    request = plain.request(plain.TextMemory("word " * 20_000))
    utility = RecencyLens().score(request).utility
    density = utility / (request.cut.stops - request.cut.starts)
    assert (np.diff(density) > 0).all()
    assert utility.sum() == pytest.approx(1, abs=0.02)


def test_the_utility_of_a_span_does_not_depend_on_how_it_is_cut(plain):
    memory = plain.TextMemory("word " * 2000)
    coarse = plain.working_context(memory, budget_entries=60)
    fine = plain.working_context(memory, budget_entries=900)
    sums = [RecencyLens().score(plain.request(memory, wc=wc)).utility for wc in (coarse, fine)]
    first = int(coarse.stops[0])
    assert sums[0][0] == pytest.approx(sums[1][fine.stops <= first].sum())


def test_scale_tokens_is_where_a_token_matters_a_quarter(plain):
    wc = plain.working_context(plain.TextMemory("x" * 4 * 160))
    utility = RecencyLens(scale_tokens=80).score(plain.request(plain.TextMemory("x" * 4 * 160), wc=wc)).utility
    assert utility[9] / utility[-1] == pytest.approx(0.25, rel=0.15)
