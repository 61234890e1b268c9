from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import InvalidScoresError
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.lenses.attention import AttentionLens
from megacontext.focus.refocusing import refocus


def test_utility_is_the_share_of_attention_that_pins_leave(plain):
    request = plain.request(plain.TextMemory("word " * 300))
    mass = np.ones(len(request.cut.levels))
    mass[2] = 5
    utility = AttentionLens().score(plain.request(request.memory, attention_mass=mass)).utility
    assert utility[request.cut.pinned].sum() == 0
    assert utility.sum() == pytest.approx(1)
    assert utility[2] == pytest.approx(5 * utility[3])


def test_before_any_attention_is_known_nothing_moves(plain):
    memory = plain.TextMemory("word " * 2000)
    wc = plain.working_context(memory)
    before = wc.cut
    refocus(wc, AttentionLens().score(plain.request(memory, wc=wc)), make_allocator("greedy"))
    assert wc.cut == before


def test_attention_to_a_gist_opens_it_down_to_its_tokens_in_a_few_refocuses(plain):
    memory = plain.TextMemory("word " * 8000)
    wc = plain.working_context(memory)
    target = 1000
    for _ in range(4):
        mass = ((wc.starts <= target) & (target < wc.stops)).astype(np.float32) + 1e-3
        refocus(wc, AttentionLens().score(plain.request(memory, attention_mass=mass, wc=wc)), make_allocator("greedy"))
    assert wc.levels[np.searchsorted(wc.starts, target, side="right") - 1] == 0


@pytest.mark.parametrize("bad", ["short", np.nan, -1.0])
def test_bad_attention_is_refused(plain, bad):
    request = plain.request(plain.TextMemory("word " * 300))
    mass = np.ones(len(request.cut.levels))
    if bad == "short":
        mass = mass[:-1]
    else:
        mass[0] = bad
    with pytest.raises(InvalidScoresError, match="one finite mass >= 0 for each"):
        AttentionLens().score(plain.request(request.memory, attention_mass=mass))
