from __future__ import annotations

import numpy as np
import pytest

from megacontext.focus.lenses.attention import attention_utility
from megacontext.focus.lenses.auto import AutoLens
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility

TEXT = "It was a plain day without news. " * 40 + "The code for Baxter is 48213. " + "Nothing else was said. " * 40


def test_auto_is_the_weighed_sum_of_its_parts(plain):
    memory = plain.TextMemory(TEXT)
    request = plain.request(memory, "What is the code for Baxter?")
    request = plain.request(memory, request.query_text, attention_mass=np.ones(len(request.cut.levels)))
    scores = AutoLens(lexical=2.0, recency=0.5, attention=0.25).score(request)
    expected = 0.5 * recency_utility(request.cut) + 0.25 * attention_utility(request)
    assert scores.utility == pytest.approx(expected)
    found = LexicalLens(recency=0).score(request).nominations
    assert found
    assert [(place.start, place.stop, place.utility) for place in scores.nominations] == [
        (place.start, place.stop, 2.0 * place.utility) for place in found
    ]


def test_a_part_of_no_weight_is_not_asked(plain):
    memory = plain.TextMemory(TEXT)
    assert not AutoLens(lexical=0).score(plain.request(memory, "What is the code for Baxter?")).nominations
    assert memory.queries == []
