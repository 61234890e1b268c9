"""Several sessions over one growing memory, against a plain list of tokens: whatever is asked of them in any order."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from megacontext.errors import BudgetError, InvalidScoresError
from megacontext.gisters.registry import make_gister
from megacontext.ports.catalog import MemoryInfo
from megacontext.ports.focus import FocusScores, Nomination
from megacontext.runtime.base_source import LoadedBase
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.patching import Patching
from megacontext.runtime.window import WindowRows
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.memory_arrays import MemoryArrays, MemoryBlobs
from megacontext.testing.memory_catalog import MemoryCatalog
from megacontext.tree.cuts import validate_cut

K = 8
BASE = LoadedBase(tiny_base())
INFO = MemoryInfo(
    block_tokens=K, segment_tokens=512, base_name="tiny", base_revision="0", base_fingerprint=BASE.info.fingerprint,
    vocab_size=256, dim=32, gister_name="mean", gister_version=make_gister("mean", BASE, block_tokens=K).version,
    gist_width=1, created_at=0.0,
)  # fmt: skip
SPAN = st.tuples(st.integers(0, 2000), st.integers(1, 40))
SEEDS = st.integers(0, 1 << 16)
# one session computes its windows exactly, the other patches in a way that leaves nothing out of date
KV_MODES = ("exact", Patching(rerun_last=400, refresh_share=1.0))


class ArbitraryLens:
    """Scores of any shape by seed; sometimes none that anybody should accept."""

    name = "arbitrary"
    needs_attention = False

    def __init__(self):
        self.seed, self.flaw = 0, ""

    def score(self, request):
        rng = np.random.default_rng(self.seed)
        num_entries, num_tokens = len(request.cut.levels), int(request.cut.stops[-1])
        utility = rng.exponential(size=num_entries) * rng.integers(0, 2, num_entries)
        starts = rng.integers(0, num_tokens, rng.integers(0, 4))
        nominations = [
            Nomination(start=int(start), stop=int(min(start + 20, num_tokens)), utility=5.0) for start in starts
        ]
        if self.flaw == "length":
            utility = np.append(utility, 1.0)
        elif self.flaw:
            utility[0] = float(self.flaw)
        return FocusScores(utility=utility, nominations=nominations)


class Sessions(RuleBasedStateMachine):
    @initialize(num_tokens=st.integers(0, 1500))
    def begin(self, num_tokens):
        self.tokens = []
        self.memory = OpenedMemory(
            base=BASE,
            catalog=MemoryCatalog(INFO),
            arrays=MemoryArrays(),
            blobs=MemoryBlobs(),
            gister=lambda: make_gister("mean", BASE, block_tokens=K),
        )
        self.lens = [ArbitraryLens(), ArbitraryLens()]
        self.sessions = [
            self.memory.session(budget_entries=budget, lens=lens, kv=kv, sink_tokens=2, recent_tokens=8)
            for budget, lens, kv in zip((120, 300), self.lens, KV_MODES, strict=True)
        ]
        self.budgets = [120, 300]
        self.pins = [[], []]
        if num_tokens:
            self.append(num_tokens, 0)

    @rule(num_tokens=st.integers(1, 200), seed=SEEDS)
    def append(self, num_tokens, seed):
        new = np.random.default_rng(seed).integers(0, 256, num_tokens).tolist()
        assert self.memory.append(new) == len(self.tokens)
        self.tokens += new

    @rule(which=st.integers(0, 1), seed=SEEDS)
    def refocus(self, which, seed):
        self.lens[which].seed = seed
        with contextlib.suppress(BudgetError):
            report = self.sessions[which].refocus()
            wc = self.sessions[which].working_context
            assert (report.num_entries, report.cost) == (wc.num_entries, wc.cost)

    @rule(which=st.integers(0, 1), flaw=st.sampled_from(["nan", "inf", "-1", "length"]))
    @precondition(lambda self: len(self.tokens) > 0)
    def refocus_with_bad_scores(self, which, flaw):
        session = self.sessions[which]
        with contextlib.suppress(BudgetError):
            session.reveal(0, 1)  # takes in what the memory gained
            before = session.working_context.cut
            self.lens[which].flaw = flaw
            try:
                session.refocus()
                raise AssertionError(f"{flaw} scores were accepted")
            except InvalidScoresError:
                pass
            finally:
                self.lens[which].flaw = ""
            assert session.working_context.cut == before

    @rule(which=st.integers(0, 1), span=SPAN, kind=st.sampled_from(["reveal", "pin", "unpin"]))
    @precondition(lambda self: len(self.tokens) > 0)
    def steer(self, which, span, kind):
        start = span[0] % len(self.tokens)
        stop = min(start + span[1], len(self.tokens))
        with contextlib.suppress(BudgetError):
            getattr(self.sessions[which], kind)(start, stop)
            wc = self.sessions[which].working_context
            touched = (wc.starts < stop) & (wc.stops > start)
            if kind != "unpin":
                assert (wc.levels[touched] == 0).all()

    @rule(which=st.integers(0, 1), budget=st.integers(20, 400))
    def resize(self, which, budget):
        with contextlib.suppress(BudgetError):
            self.sessions[which].resize(budget)
            self.budgets[which] = budget

    @rule(which=st.integers(0, 1), num_tokens=st.integers(1, 12), seed=SEEDS)
    def score_a_continuation(self, which, num_tokens, seed):
        session = self.sessions[which]
        continuation = np.random.default_rng(seed).integers(0, 256, num_tokens)
        with contextlib.suppress(BudgetError):
            nats = session.nll(continuation)
            fresh = self.memory.session(
                budget_entries=self.budgets[which], lens=self.lens[which], sink_tokens=2, recent_tokens=8
            )
            engine = fresh._engine
            rows = WindowRows.of_cut(session.working_context.cut, 1)
            window = engine.show(np.zeros(0, np.uint32))
            window.show(WindowRows(np.zeros((0, 3), np.int64)), num_tokens=0)
            window.show(rows, num_tokens=len(self.tokens))
            np.testing.assert_allclose(nats, window.nll(continuation.astype(np.uint32)), atol=1e-3)

    @invariant()
    def every_window_is_a_legal_cut_of_the_plain_list(self):
        if not hasattr(self, "sessions"):
            return
        assert self.memory.num_tokens == len(self.tokens)
        for session, budget in zip(self.sessions, self.budgets, strict=True):
            wc = session.working_context
            validate_cut(self.memory.tree, wc.cut, wc.num_tokens, budget_entries=budget)
            for level, start, stop in wc.cut.rows():
                if level == 0:
                    assert self.memory.tokens(start, stop).tolist() == self.tokens[start:stop]


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
