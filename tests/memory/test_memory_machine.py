"""Everything that changes a memory, in any order, against plain lists; other readers and reopening in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from megacontext.errors import InvalidTokensError, StorageFullError

VOCAB = 300


class MemoryMachine(RuleBasedStateMachine):
    kit = None  # the doubles, which come as a fixture

    @initialize(gister=st.sampled_from(["MeanGister", "ContextGister"]))
    def start(self, gister):
        self.gister = getattr(self.kit, gister)()
        self.arrays, self.blobs = self.kit.MemoryArrays(), self.kit.MemoryBlobs()
        self.catalog = self.kit.MemoryCatalog(self.kit.make_info(self.gister, segment_tokens=128))
        self.tokens = []
        self.texts = {}
        self.memory = self.opened()
        self.reader = self.opened(read_only=True)
        self.num_read = 0

    def opened(self, **options):
        return self.kit.make_memory(self.gister, catalog=self.catalog, arrays=self.arrays, blobs=self.blobs, **options)

    @rule(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=90), role=st.sampled_from(["", "user"]))
    def append(self, tokens, role):
        assert self.memory.append(tokens, role=role) == len(self.tokens)
        self.tokens += tokens

    @rule(size=st.integers(1, 600), seed=st.integers(0, 99))
    def append_much(self, size, seed):
        tokens = np.random.default_rng(seed).integers(0, VOCAB, size)
        self.memory.append(tokens)
        self.tokens += tokens.tolist()

    @rule(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip))
    def turn(self, text):
        start, stop = self.memory.append_text(text, source="chat", role="user")
        assert (start, stop) == (len(self.tokens), len(self.tokens) + len(text.encode()))
        self.tokens += text.encode()

    @rule(name=st.sampled_from("abc"), word=st.sampled_from(["hay ", "straw ", "grass "]), count=st.integers(1, 99))
    def ingest(self, name, word, count):
        text = word * count
        report = self.memory.ingest(text=text, source=name)
        is_new = self.texts.get(name) != text
        assert (report.num_sources, report.num_unchanged) == ((1, 0) if is_new else (0, 1))
        if is_new:
            self.texts[name] = text
            self.tokens += text.encode()

    @rule(bad=st.sampled_from([[-1], [VOCAB], [0.5], [], [[1]]]))
    def refuse(self, bad):
        with pytest.raises(InvalidTokensError):
            self.memory.append(bad)

    @rule(size=st.integers(1, 300))
    def fail(self, size):
        """A disk that is full for once."""
        self.catalog.is_full = True
        with pytest.raises(StorageFullError):
            self.memory.append(np.zeros(size, np.uint32))
        self.catalog.is_full = False

    @rule()
    def reopen(self):
        self.memory = self.opened()

    @rule()
    def refresh(self):
        self.num_read = self.reader.refresh()

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def read(self, data):
        start = data.draw(st.integers(0, len(self.tokens)))
        stop = data.draw(st.integers(start, len(self.tokens)))
        assert self.memory.tokens(start, stop).tolist() == self.tokens[start:stop]
        quotes = self.memory.provenance(start, stop)
        assert [q.token_start for q in quotes[1:]] == [q.token_stop for q in quotes[:-1]]
        if start < stop:
            assert (quotes[0].token_start, quotes[-1].token_stop) == (start, stop)

    @precondition(lambda self: len(self.tokens) >= 8)
    @rule(data=st.data())
    def gist(self, data):
        level = data.draw(st.integers(1, self.memory.num_levels - 1))
        index = data.draw(st.integers(0, len(self.tokens) // 8**level - 1))
        tokens = np.array(self.tokens[: (index + 1) * 8**level], np.uint32)
        rows = self.gister.from_tokens(tokens, start=0, num_context=0)
        for upper in range(2, level + 1):
            rows = self.gister.from_gists(rows, level=upper)
        one = self.memory.reader.gist_batch(np.array([level]), np.array([index]))
        assert np.array_equal(one.vectors[0], rows.vectors[index])
        assert np.array_equal(one.weights[0], rows.weights[index])

    @invariant()
    def holds(self):
        if not hasattr(self, "memory"):
            return
        assert self.memory.num_tokens == len(self.tokens)
        assert self.memory.reader.state.sealed_tokens == len(self.tokens) // 128 * 128
        assert self.reader.tokens(0, self.num_read).tolist() == self.tokens[: self.num_read]

    def teardown(self):
        if hasattr(self, "memory"):
            assert self.memory.check(recompute_gists=True).ok


def test_memory_machine(kit):
    assert kit.VOCAB == VOCAB
    machine = type("BoundMachine", (MemoryMachine,), {"kit": kit})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
