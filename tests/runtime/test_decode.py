"""The cache after any sequence of edits equals a fresh forward, and only what changed was run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megacontext.errors import InvariantError
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.window import WindowReader, WindowRows
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry

TREE = TreeGeometry(8)
NUM_TOKENS = 131
CUTS = [
    Cut.of([(2, 0, 64), (1, 64, 72), (1, 72, 80), *((1, s, s + 8) for s in range(80, 128, 8)), (0, 128, 131)]),
    Cut.of([(2, 0, 64), (1, 64, 72), (0, 72, 80), *((1, s, s + 8) for s in range(80, 128, 8)), (0, 128, 131)]),
    Cut.of([(2, 0, 64), (2, 64, 128), (0, 128, 131)]),
]
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.15}


@pytest.fixture
def make_window(plain_reader):
    def make(dtype="float32", positions="window", capacity=128):
        base = tiny_core_base(dtype=dtype) if positions == "timeline" else tiny_base(dtype=dtype)
        reader = plain_reader(np.random.default_rng(1).integers(0, 256, NUM_TOKENS), dim=32)
        return ModelWindow(
            base, WindowReader(TREE, reader, base, positions=positions), capacity_entries=capacity
        ), reader

    return make


def rows_of(cut, scratch=()):
    return WindowRows.of_cut(cut, 1).then(WindowRows.of_scratch(np.array(scratch, np.uint32)))


@pytest.mark.parametrize("positions", ["window", "global", "timeline"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_edits_give_the_logits_of_a_fresh_forward(make_window, dtype, positions):
    edited, _ = make_window(dtype, positions)
    for cut, scratch in zip([*CUTS, CUTS[0]], [[], [5], [5, 6, 7], [9]], strict=True):
        edited.show(rows_of(cut, scratch), num_tokens=NUM_TOKENS)
        fresh, _ = make_window(dtype, positions)
        fresh.show(rows_of(cut, scratch), num_tokens=NUM_TOKENS)
        spread = float(fresh.next_logits.std())
        difference = float((edited.next_logits - fresh.next_logits).abs().max())
        assert difference <= TOLERANCE[dtype] * spread


def test_an_edit_runs_only_what_stands_behind_it(make_window):
    window, _ = make_window()
    window.show(rows_of(CUTS[0], [5, 6]), num_tokens=NUM_TOKENS)
    assert window.num_forwarded == len(rows_of(CUTS[0], [5, 6]))
    before = window.num_forwarded
    window.show(rows_of(CUTS[1], [5, 6]), num_tokens=NUM_TOKENS)
    assert window.num_forwarded - before == len(rows_of(CUTS[1], [5, 6])) - 2


def test_showing_the_same_again_runs_nothing_and_a_shorter_window_only_its_last_entry(make_window):
    window, reader = make_window()
    window.show(rows_of(CUTS[0], [5, 6]), num_tokens=NUM_TOKENS)
    before, num_reads = window.num_forwarded, reader.num_reads
    window.show(rows_of(CUTS[0], [5, 6]), num_tokens=NUM_TOKENS)
    assert (window.num_forwarded, reader.num_reads) == (before, num_reads)
    window.show(rows_of(CUTS[0]), num_tokens=NUM_TOKENS)
    assert window.num_forwarded == before + 1


def test_appending_is_showing_and_reads_no_history(make_window):
    appended, reader = make_window()
    appended.show(rows_of(CUTS[0], [5]), num_tokens=NUM_TOKENS)
    num_reads = reader.num_reads
    for token_id in (6, 7):
        appended.append(np.array([token_id], np.uint32))
    shown, _ = make_window()
    shown.show(rows_of(CUTS[0], [5, 6, 7]), num_tokens=NUM_TOKENS)
    torch.testing.assert_close(appended.next_logits, shown.next_logits, atol=1e-4, rtol=1e-4)
    assert appended.rows.keys.tolist() == shown.rows.keys.tolist()
    assert reader.num_reads == num_reads


def test_an_all_token_window_gives_the_plain_models_nll_and_stays_as_it_was(make_window):
    window, reader = make_window(capacity=512)
    raw = Cut.of([(0, start, min(start + 8, NUM_TOKENS)) for start in range(0, NUM_TOKENS, 8)])
    window.show(rows_of(raw), num_tokens=NUM_TOKENS)
    continuation = np.random.default_rng(2).integers(0, 256, 300).astype(np.uint32)
    before = window.next_logits.clone()

    nats = window.nll(continuation)

    whole = np.concatenate([reader.tokens_at(np.arange(NUM_TOKENS)), continuation])
    expected = tiny_base().surprise(whole[None])[0, NUM_TOKENS:]
    np.testing.assert_allclose(nats, expected, atol=2e-4)
    assert len(window.rows) == window.cache.num_entries == NUM_TOKENS
    torch.testing.assert_close(window.next_logits, before)


def test_without_history_the_first_token_costs_log_v(make_window):
    window, _ = make_window()
    assert window.nll(np.array([3], np.uint32)).tolist() == [pytest.approx(np.log(256))]


def test_an_overfull_window_is_our_own_bug(make_window):
    window, _ = make_window(capacity=4)
    with pytest.raises(InvariantError, match="window of 4"):
        window.append(np.arange(5, dtype=np.uint32))
