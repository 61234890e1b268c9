"""Appending: the same tree however tokens arrive, bad tokens refused, failures without a trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import InvalidTokensError, InvalidValueError, MemoryClosedError, MemoryReadOnlyError


def expected_gists(gister, tokens, level):
    """All gists of a level, straight from the definition."""
    blocks = len(tokens) // gister.block_tokens
    rows = gister.from_tokens(tokens[: blocks * gister.block_tokens], start=0, num_context=0)
    for upper in range(2, level + 1):
        whole = len(rows) // gister.block_tokens * gister.block_tokens
        rows = gister.from_gists(rows[slice(0, whole)], level=upper)
    return rows


@pytest.mark.parametrize("name", ["MeanGister", "ContextGister"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 700), min_size=1, max_size=12))
def test_any_chunking_equals_building_at_once(kit, name, seed, lengths):
    gister = getattr(kit, name)()
    tokens = np.random.default_rng(seed).integers(0, kit.VOCAB, sum(lengths)).astype(np.uint32)
    memory = kit.make_memory(gister)
    position = 0
    for length in lengths:
        assert memory.append(tokens[position : position + length]) == position
        position += length
        assert memory.num_tokens == position
    assert np.array_equal(memory.tokens(0, position), tokens)
    assert memory.num_levels == memory.tree.num_levels(position)
    for level in range(1, memory.num_levels):
        wanted = expected_gists(gister, tokens, level)
        assert np.array_equal(memory.gists(level, 0, len(wanted)), wanted.vectors), level
        batch = memory.reader.gists(level, 0, len(wanted))
        assert np.array_equal(batch.offsets, wanted.offsets)
        assert np.array_equal(batch.weights, wanted.weights)
    assert memory.check(recompute_gists=True).ok


def test_short_appends_seal_and_keep_every_level(kit):
    """One segment per 16 blocks of 32: after 40 segments level 3 has whole nodes, none of them computed by readers."""
    memory = kit.make_memory()
    tokens = np.arange(40 * 512 + 17) % kit.VOCAB
    for start in range(0, len(tokens), 301):
        memory.append(tokens[start : start + 301])
    state = memory.reader.state
    assert state.sealed_tokens == 40 * 512
    assert state.sealed_nodes[1] == 40 * 64
    assert state.sealed_nodes[2] == 5 * 64
    wanted = expected_gists(kit.MeanGister(), tokens.astype(np.uint32), 3)
    assert np.array_equal(memory.gists(3, 0, len(wanted)), wanted.vectors)


def test_appends_of_one_source_and_role_grow_it(kit):
    memory = kit.make_memory()
    memory.append([1, 2])
    memory.append([3])
    memory.append([4], role="user")
    memory.append([5], role="assistant")
    memory.append([6], source="other")
    memory.append([7], source="tokens")
    assert [(s.uri, s.version, s.role, s.token_start, s.token_stop) for s in memory.sources()] == [
        ("tokens", 1, "", 0, 3),
        ("tokens", 2, "user", 3, 4),
        ("tokens", 3, "assistant", 4, 5),
        ("other", 1, "", 5, 6),
        ("tokens", 4, "", 6, 7),
    ]
    assert memory.check().ok


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ([300], "300"),
        ([1, 2, 3000], "3000"),
        ([-1], "-1"),
        ([1.0, 2.0], "float"),
        (np.ones((2, 2), np.int64), r"\(2, 2\)"),
        ([], "0"),
        (np.empty(0, np.uint32), "0"),
        ([True, False], "bool"),
        ([True, 2], "bool"),
        (np.array([True]), "bool"),
        (5, "are 5;"),
        (["a"], "U1"),
        ([[1], [2, 3]], "array"),
        ([2**70], "object"),
        (None, "are None;"),
    ],
)
def test_bad_tokens_change_nothing(kit, bad, named):
    memory = kit.make_memory()
    memory.append(np.arange(200))
    before = kit.contents(memory)
    with pytest.raises(InvalidTokensError, match=named) as caught:
        memory.append(bad)
    assert ";" in str(caught.value)  # what was given; what to do
    assert "\n" not in str(caught.value)
    assert kit.contents(memory) == before
    memory.append([1])
    assert memory.num_tokens == 201


def test_limits_are_the_vocabulary(kit):
    memory = kit.make_memory()
    memory.append([0, kit.VOCAB - 1])
    assert memory.tokens(0, 2).tolist() == [0, kit.VOCAB - 1]
    assert memory.tokens(0, 2).dtype == np.uint32


def test_a_read_only_memory_refuses(kit):
    memory = kit.make_memory(read_only=True)
    with pytest.raises(MemoryReadOnlyError, match="open it for writing"):
        memory.append([1])


def test_a_closed_memory_refuses(kit):
    with kit.make_memory() as memory:
        memory.append([1])
    memory.close()
    for call in (lambda: memory.append([1]), lambda: memory.tokens(0, 1), memory.sources, memory.inspect):
        with pytest.raises(MemoryClosedError):
            call()


@pytest.mark.parametrize("source", ["", " ", None])
def test_a_source_without_a_name_is_refused(kit, source):
    memory = kit.make_memory()
    for call in (
        lambda: memory.append([1], source=source),
        lambda: memory.append_text("a b", source=source),
        lambda: memory.ingest(text="a b", source=source),
    ):
        with pytest.raises(InvalidValueError, match="give a name"):
            call()
    assert memory.num_tokens == 0


@pytest.mark.parametrize("text", [None, b"bytes", 5])
def test_what_is_no_text_is_refused(kit, text):
    memory = kit.make_memory()
    with pytest.raises(InvalidValueError, match="give a str"):
        memory.append_text(text)
