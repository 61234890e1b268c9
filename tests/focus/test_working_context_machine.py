"""Several working contexts over one growing history, in any order of operations, against lists of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from megacontext.errors import BudgetError, InvalidScoresError
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.refocusing import refocus
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import AllocatorConfig, FocusScores, Nomination
from megacontext.tree.geometry import TreeGeometry

MOST_CONTEXTS = 3
MOST_TOKENS = 4000
WHICH = st.integers(0, MOST_CONTEXTS - 1)
SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.floats(0, 1, allow_nan=False)


class WorkingContextMachine(RuleBasedStateMachine):
    """Each real context is paired with a plain one that judges it."""

    plain = None  # the module of plain parts, set by the test

    @initialize(block_tokens=st.sampled_from([8, 9, 16]), num_tokens=st.integers(0, 600))
    def start(self, block_tokens, num_tokens):
        self.tree = TreeGeometry(block_tokens)
        self.num_tokens = num_tokens
        self.pairs = []
        self.open(gist_width=1, spare=40, sink_tokens=4, recent_tokens=8)

    @precondition(lambda self: len(self.pairs) < MOST_CONTEXTS)
    @rule(
        gist_width=st.integers(1, 3),
        spare=st.integers(0, 150),
        sink_tokens=st.integers(0, 12),
        recent_tokens=st.integers(0, 30),
    )
    def open(self, gist_width, spare, sink_tokens, recent_tokens):
        plain = self.plain.PlainContext(
            self.tree.block_tokens, gist_width, 0, sink_tokens, recent_tokens, num_tokens=self.num_tokens
        )
        smallest = plain.smallest_budget()

        def make(budget_entries):
            config = WorkingContextConfig(
                budget_entries=budget_entries, sink_tokens=sink_tokens, recent_tokens=recent_tokens
            )
            return WorkingContext(self.tree, gist_width=gist_width, num_tokens=self.num_tokens, config=config)

        if smallest:
            with pytest.raises(BudgetError, match=f"at least {smallest}:"):
                make(smallest - 1)
        plain.budget_entries = smallest + spare
        self.pairs.append((make(smallest + spare), plain))

    @precondition(lambda self: self.num_tokens < MOST_TOKENS)
    @rule(num_tokens=st.one_of(st.integers(0, 40), st.integers(0, 700)))
    def append(self, num_tokens):
        self.num_tokens += num_tokens
        for wc, plain in self.pairs:
            plain.num_tokens += num_tokens
            smallest = plain.smallest_budget()
            if smallest > plain.budget_entries:
                self._fails(wc, smallest, wc.extend, num_tokens)
                plain.num_tokens -= num_tokens
                self._resize(wc, plain, smallest + 5)
                plain.num_tokens += num_tokens
            before = wc.cut.rows()
            plain.check_edits(before, *self._after(wc, wc.extend, num_tokens))

    @rule(
        which=WHICH,
        seed=SEEDS,
        allocator=st.sampled_from(["greedy", "greedy", "optimal"]),
        sparse=st.booleans(),
        limits=st.fixed_dictionaries(
            {
                "max_edits": st.sampled_from([0, 0, 1, 4]),
                "cooldown": st.sampled_from([0, 0, 2]),
                "swap_margin": st.sampled_from([0.0, 0.2]),
                "edit_cost": st.sampled_from([0.0, 0.001]),
                "gist_value": st.sampled_from([0.0, 0.2, 0.7]),
            }
        ),
    )
    def refocus(self, which, seed, allocator, sparse, limits):
        wc, plain = self._pair(which)
        random = np.random.default_rng(seed)
        utility = random.exponential(size=wc.num_entries) ** 2 * (
            random.random(wc.num_entries) < (0.1 if sparse else 1)
        )
        nominations = []
        for start in random.integers(0, max(self.num_tokens, 1), 3 if self.num_tokens else 0).tolist():
            stop = min(start + 1 + int(random.integers(0, 40)), self.num_tokens)
            nominations.append(Nomination(start=start, stop=stop, utility=float(random.exponential())))
        before, ages = wc.cut.rows(), dict(zip(wc.cut.rows(), wc.ages.tolist(), strict=True))
        edits = refocus(
            wc,
            FocusScores(utility=utility, nominations=nominations),
            make_allocator(allocator),
            AllocatorConfig(budget_entries=plain.budget_entries, **limits),
        )
        plain.check_edits(before, wc.cut.rows(), edits)
        for row, age in zip(wc.cut.rows(), wc.ages.tolist(), strict=True):
            assert age == (ages[row] + 1 if row in ages else 0)
        if allocator == "greedy" and limits["max_edits"]:
            assert edits.num_edits <= limits["max_edits"]

    @precondition(lambda self: self.num_tokens)
    @rule(which=WHICH, bad=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, "short", "long", "outside"]))
    def refocus_with_bad_scores(self, which, bad):
        wc, _ = self._pair(which)
        before = self.plain.snapshot(wc)
        utility, nominations = np.ones(wc.num_entries), []
        if bad == "outside":
            nominations = [Nomination(start=0, stop=self.num_tokens + 1, utility=1.0)]
        elif isinstance(bad, str):
            utility = np.ones(wc.num_entries + (1 if bad == "long" else -1))
        else:
            utility[-1] = bad
        with pytest.raises(InvalidScoresError):
            refocus(wc, FocusScores(utility=utility, nominations=nominations), make_allocator("greedy"))
        assert self.plain.snapshot(wc) == before

    @precondition(lambda self: self.num_tokens)
    @rule(which=WHICH, at=SHARES, length=st.integers(1, 60), pin=st.booleans())
    def reveal_or_pin(self, which, at, length, pin):
        wc, plain = self._pair(which)
        start, stop = self._span(at, length)
        smallest = plain.smallest_budget(set(range(start, stop)))
        operation = wc.pin if pin else wc.reveal
        if smallest > plain.budget_entries:
            self._fails(wc, smallest, operation, start, stop)
            return
        before = wc.cut.rows()
        plain.check_edits(before, *self._after(wc, operation, start, stop))
        shown = plain.window(wc.cut.rows())
        assert all((0, token, 0) in shown for token in range(start, stop))
        if pin:
            plain.pins |= set(range(start, stop))

    @precondition(lambda self: self.num_tokens)
    @rule(which=WHICH, at=SHARES, length=st.integers(1, 200))
    def unpin(self, which, at, length):
        wc, plain = self._pair(which)
        start, stop = self._span(at, length)
        before = wc.cut.rows()
        wc.unpin(start, stop)
        plain.pins -= set(range(start, stop))
        assert wc.cut.rows() == before

    @rule(which=WHICH, change=st.integers(-150, 150))
    def shrink_or_grow(self, which, change):
        wc, plain = self._pair(which)
        budget_entries = max(0, plain.budget_entries + change)
        smallest = plain.smallest_budget()
        if budget_entries < smallest:
            self._fails(wc, smallest, wc.resize, budget_entries)
            self._resize(wc, plain, smallest)
        else:
            self._resize(wc, plain, budget_entries)

    @rule(which=WHICH, at=SHARES)
    def expand_and_collapse(self, which, at):
        wc, plain = self._pair(which)
        gists = np.flatnonzero(wc.levels)
        if not len(gists):
            return
        entry = int(gists[int(at * (len(gists) - 1))])
        before, level = wc.cut.rows(), int(wc.levels[entry])
        needed = wc.cost + (self.tree.block_tokens - 1) * wc.gist_width
        if level == 1:
            needed = wc.cost + self.tree.block_tokens - wc.gist_width
        if needed > wc.budget_entries:
            self._fails(wc, needed, wc.expand, entry)
            return
        plain.check_edits(before, *self._after(wc, wc.expand, entry))
        expanded = wc.cut.rows()
        children = range(entry, entry + (1 if level == 1 else self.tree.block_tokens))
        plain.check_edits(expanded, *self._after(wc, wc.collapse, children))
        assert wc.cut.rows() == before
        wc.expand(entry)
        assert wc.cut.rows() == expanded

    @precondition(lambda self: self.num_tokens)
    @rule(which=WHICH, seed=SEEDS, share=st.sampled_from([0.02, 0.2, 1.0]))
    def close(self, which, seed, share):
        """The smallest node above each chosen row, or nothing if one is not whole or would hide what is pinned."""
        wc, plain = self._pair(which)
        chosen = np.random.default_rng(seed).random(wc.num_entries) < share
        before, pinned = wc.cut.rows(), wc.pinned.tolist()
        nodes = set()
        for level, start, _ in (row for row, is_chosen in zip(before, chosen, strict=True) if is_chosen):
            width = self.tree.width(level + 1)
            nodes.add((level + 1, start // width * width, start // width * width + width))
        under = [any(low <= start < high for _, low, high in nodes) for _, start, _ in before]
        edits = wc.close_rows(chosen)
        hides = any(map(lambda hidden, stays: hidden and stays, under, pinned))
        if hides or any(high > self.num_tokens for _, _, high in nodes):
            assert edits is None
            assert wc.cut.rows() == before
            return
        plain.check_edits(before, wc.cut.rows(), edits)
        largest = {node for node in nodes if not any(o[1] <= node[1] and node[2] <= o[2] and o != node for o in nodes)}
        stay = {row for row, hidden in zip(before, under, strict=True) if not hidden}
        assert set(wc.cut.rows()) == stay | largest

    @invariant()
    def every_context_is_legal(self):
        for wc, plain in getattr(self, "pairs", []):
            plain.check(wc)

    def _pair(self, which):
        return self.pairs[which % len(self.pairs)]

    def _span(self, at, length):
        start = int(at * (self.num_tokens - 1))
        return start, min(start + length, self.num_tokens)

    def _after(self, wc, operation, *arguments):
        edits = operation(*arguments)
        return wc.cut.rows(), edits

    def _fails(self, wc, smallest, operation, *arguments):
        before = self.plain.snapshot(wc)
        with pytest.raises(BudgetError, match=rf"\b{smallest}\b"):
            operation(*arguments)
        assert self.plain.snapshot(wc) == before

    def _resize(self, wc, plain, budget_entries):
        before = wc.cut.rows()
        plain.check_edits(before, *self._after(wc, wc.resize, budget_entries))
        plain.budget_entries = budget_entries


def test_working_contexts_agree_with_plain_lists(plain_context):
    machine = type("Machine", (WorkingContextMachine,), {"plain": plain_context})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
