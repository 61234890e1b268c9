"""Our own lenses and allocators keep what the shipped suites ask of everybody's."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import InvalidScoresError, InvariantError
from megacontext.focus.allocators.greedy import GreedyAllocator
from megacontext.focus.allocators.optimal import OptimalAllocator
from megacontext.focus.lenses.attention import AttentionLens
from megacontext.focus.lenses.auto import AutoLens
from megacontext.focus.lenses.lensnet import LensNetLens
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import RecencyLens
from megacontext.ports.focus import FocusScores, Nomination
from megacontext.testing.allocator_suite import AllocatorSuite
from megacontext.testing.lens_suite import LensSuite


class TestRecency(LensSuite):
    def make(self):
        return RecencyLens()


class TestLexical(LensSuite):
    def make(self):
        return LexicalLens()


class TestAttention(LensSuite):
    def make(self):
        return AttentionLens()


class TestAuto(LensSuite):
    def make(self):
        return AutoLens()


class TestLensNet(LensSuite):
    def make(self):
        return LensNetLens()


class TestGreedy(AllocatorSuite):
    def make(self):
        return GreedyAllocator()


class TestOptimal(AllocatorSuite):
    def make(self):
        return OptimalAllocator()


class Beyond:
    """Nominates what is not there."""

    name, needs_attention = "beyond", False

    def score(self, request):
        beyond = Nomination(start=request.memory.num_tokens, stop=request.memory.num_tokens + 1, utility=1.0)
        return FocusScores(utility=np.ones(len(request.cut.levels)), nominations=(beyond,))


class Random:
    """Says something else every time."""

    name, needs_attention = "random", False

    def score(self, request):
        return FocusScores(utility=np.random.default_rng().random(len(request.cut.levels)))


@pytest.mark.parametrize(("broken", "error"), [(Beyond, InvalidScoresError), (Random, AssertionError)])
def test_the_suite_of_lenses_finds_broken_ones(broken, error):
    suite = type("Suite", (LensSuite,), {"make": lambda self: broken()})()
    with pytest.raises(error):
        suite.test_scores_are_valid_and_the_same_again()


class Nothing:
    """One gist of the whole history, whatever the tree."""

    name = "nothing"

    def allocate(self, cut, scores, config):
        return np.ones(1, np.int64), cut.starts[:1], cut.stops[-1:]


def test_the_suite_of_allocators_finds_broken_ones():
    suite = type("Suite", (AllocatorSuite,), {"make": lambda self: Nothing()})()
    with pytest.raises(InvariantError):
        suite.test_targets_are_legal_within_budget_and_keep_what_is_pinned({})
