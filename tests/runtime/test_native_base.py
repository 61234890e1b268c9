"""A memory over the native core with learned gists: the whole way, with a net that has learned nothing yet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megacontext.errors import BaseMismatchError, BaseModelError
from megacontext.runtime import assembly
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "memory"
    with assembly.open(folder, base=tiny_core_base(), create=True, gister="gistnet", block_tokens=8) as memory:
        memory.append(rng.integers(97, 123, 3000))
    return folder


def test_gists_are_learned_ones_at_every_level_however_tokens_arrived(folder, tmp_path):
    rng = np.random.default_rng(0)
    token_ids = rng.integers(97, 123, 3000)
    with assembly.open(
        tmp_path / "pieces", base=tiny_core_base(), create=True, gister="gistnet", block_tokens=8
    ) as other:
        for start in range(0, 3000, 137):
            other.append(token_ids[start : start + 137])
        with assembly.open(folder, base=tiny_core_base()) as memory:
            assert memory.info.gister_version == "1-tiny0"
            for level in (1, 2, 3):
                count = 3000 // 8**level
                np.testing.assert_array_equal(memory.gists(level, 0, count), other.gists(level, 0, count))


def test_a_refocus_equals_a_fresh_window(folder):
    with assembly.open(folder, base=tiny_core_base()) as memory, memory.session(budget_entries=300) as session:
        session.refocus("abc")
        session.nll(np.arange(97, 110))
        session.reveal(800, 900)
        moved = session.nll(np.arange(97, 110))
        with memory.session(budget_entries=300) as fresh:
            fresh.refocus("abc")
            fresh.reveal(800, 900)
            np.testing.assert_allclose(moved, fresh.nll(np.arange(97, 110)), atol=1e-4)


def test_it_answers_and_streams(folder):
    with assembly.open(folder, base=tiny_core_base()) as memory, memory.session(budget_entries=300) as session:
        events = list(session.generate("abc", max_new_tokens=8, stop=()))
    assert events


def test_spread_reaches_the_model(folder):
    """Opened wide or told that a gist is a token: the core reads the same vectors differently."""
    base = tiny_core_base()
    inputs = base.embed(np.arange(97, 117, dtype=np.uint32))
    positions = np.arange(20.0)
    certain = base.forward(inputs, positions, base.new_cache(20))
    spreads = np.full(20, 1.2, dtype=np.float32)
    spread = base.forward(inputs, positions, base.new_cache(20), spreads_T=spreads)
    assert not torch.allclose(certain, spread)
    plain = tiny_base()
    inputs = plain.embed(np.arange(97, 117, dtype=np.uint32))
    assert torch.equal(
        plain.forward(inputs, positions, plain.new_cache(20)),
        plain.forward(inputs, positions, plain.new_cache(20), spreads_T=spreads),
    )


def test_a_base_without_learned_gists_makes_no_such_memory(tmp_path):
    with pytest.raises(BaseModelError, match="has no learned gists"):
        assembly.open(tmp_path / "memory", base=tiny_base(), create=True, gister="gistnet")
    assert not (tmp_path / "memory").exists()


def test_gists_of_another_net_are_refused(folder):
    """The same embeddings, but the net was taught again: gists of the two must not mix."""
    base = tiny_core_base()
    base.info = base.info.__class__(**{**vars(base.info), "gist_net": "other"})
    with (
        assembly.open(folder, base=base) as memory,
        memory.session(budget_entries=300) as session,
        pytest.raises(BaseMismatchError, match=r"1-other.*1-tiny0"),
    ):
        session.nll(np.arange(97, 120))
