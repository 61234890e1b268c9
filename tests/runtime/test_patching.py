"""What a patch keeps and runs, and that a patched window is never further from a fresh one than its bound says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import InvalidValueError
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.patching import Patching, plan_patch
from megacontext.runtime.window import WindowReader, WindowRows
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry

TREE = TreeGeometry(8)
NUM_BLOCKS = 120
NUM_TOKENS = NUM_BLOCKS * 8
BARE = Patching(rerun_last=1, rerun_behind=0, num_probes=0, drift_bound=1e9)


def rows_of(opened, scratch=()):
    """Every block of the history as a gist, but those that are opened; then scratch."""
    cut = Cut.of([(int(block not in opened), 8 * block, 8 * block + 8) for block in range(NUM_BLOCKS)])
    return WindowRows.of_cut(cut, 1).then(WindowRows.of_scratch(np.array(scratch, np.uint32)))


def planned(old, new, patching=BARE, stale=None, ran=None):
    stale = np.zeros(len(old), bool) if stale is None else stale
    return plan_patch(old, new, patching, is_stale_O=stale, ran_O=np.zeros(len(old), int) if ran is None else ran)


@pytest.fixture
def make_window(plain_reader):
    def make(patching=None, positions="window", seed=0):
        base = tiny_core_base(seed=seed) if positions == "timeline" else tiny_base(seed=seed)
        reader = plain_reader(np.random.default_rng(1).integers(0, 256, NUM_TOKENS), dim=32)
        return ModelWindow(
            base, WindowReader(TREE, reader, base, positions=positions), capacity_entries=512, patching=patching
        )

    return make


def show(window, opened, scratch=()):
    window.show(rows_of(opened, scratch), num_tokens=NUM_TOKENS)


def test_opening_a_block_runs_its_tokens_and_the_last_row():
    old, new = rows_of({3}), rows_of({3, 20})
    patch = planned(old, new)
    opened = np.flatnonzero((new.keys[:, 0] == 0) & (new.keys[:, 1] // 8 == 20))
    assert patch.run_R.tolist() == [*opened, len(new) - 1]
    assert len(patch.kept_old_k) == len(old) - 2  # not the gist that was opened, not the last row
    assert patch.is_stale_W.nonzero()[0].tolist() == list(range(opened[-1] + 1, len(new) - 1))


def test_closing_a_block_runs_one_gist():
    patch = planned(rows_of({3, 20}), rows_of({3}))
    assert len(patch.run_R) == 2


def test_rows_behind_an_edit_and_the_last_ones_run_again_if_asked():
    old, new = rows_of(set(), range(9)), rows_of({20}, range(9))
    patch = planned(old, new, Patching(rerun_last=4, rerun_behind=2, num_probes=0))
    assert patch.run_R.tolist() == [*range(20, 28), 28, 29, *range(len(new) - 4, len(new))]


def test_a_growing_answer_makes_nothing_stale_and_a_changed_one_ends_what_is_shared():
    old = rows_of({3}, [5, 6, 7])
    grown = planned(old, rows_of({3}, [5, 6, 7, 8]))
    assert (grown.run_R.tolist(), grown.is_stale_W.any()) == ([len(old)], False)
    changed = planned(old, rows_of({3}, [5, 9, 7]))
    assert changed.run_R.tolist() == [len(old) - 2, len(old) - 1]  # 7 follows another token now


def test_probes_are_the_rows_that_are_out_of_date_for_the_longest():
    old, new = rows_of({3}), rows_of({3, 2})
    stale, ran = np.zeros(len(old), bool), np.zeros(len(old), int)
    stale[5:30] = True
    ran[5:25] = 4
    patch = planned(old, new, Patching(rerun_last=1, rerun_behind=0, num_probes=3), stale, ran)
    assert patch.probes_old_p.tolist() == [3, 4, 25]  # right behind the edit, never run again; then the oldest
    assert set(patch.probes_new_p) <= set(patch.run_R)
    assert not patch.is_stale_W[patch.probes_new_p].any()


@given(
    st.sets(st.integers(0, NUM_BLOCKS - 1), max_size=12),
    st.sets(st.integers(0, NUM_BLOCKS - 1), max_size=12),
    st.lists(st.integers(0, 3), max_size=6),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.builds(Patching, rerun_last=st.integers(1, 9), rerun_behind=st.integers(0, 3), num_probes=st.integers(0, 9)),
)
def test_every_row_of_the_new_window_is_kept_or_run(opened_before, opened, scratch_before, scratch, patching):
    old, new = rows_of(opened_before, scratch_before), rows_of(opened, scratch)
    patch = planned(old, new, patching)
    assert sorted([*patch.kept_new_k, *patch.run_R]) == list(range(len(new)))
    assert (old.keys[patch.kept_old_k] == new.keys[patch.kept_new_k]).all()
    assert patch.run_R[-1] == len(new) - 1
    first = next((n for n, (a, b) in enumerate(zip(old.keys, new.keys, strict=False)) if (a != b).any()), None)
    if first is not None:  # an edit: all that is kept behind it is out of date
        assert patch.is_stale_W[patch.kept_new_k].tolist() == (patch.kept_new_k >= first).tolist()


@pytest.mark.parametrize("positions", ["window", "global", "timeline"])
def test_a_patch_that_runs_all_behind_its_edit_is_a_fresh_forward(make_window, positions):
    patched, fresh = make_window(Patching(rerun_last=500, refresh_share=1.0), positions), make_window(None, positions)
    for opened in ({3, 30}, {3, 20}, {9, 20, 31}):
        show(patched, opened, [5, 6])
    show(fresh, {9, 20, 31}, [5, 6])
    torch.testing.assert_close(patched.next_logits, fresh.next_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("positions", ["window", "timeline"])
def test_the_more_probes_run_the_nearer_is_the_window_to_a_fresh_one(make_window, positions):
    edits = [{n % 7, 20 + n % 11, 60 + n % 13} for n in range(12)]
    errors = {0: 0.0, 60: 0.0, 500: 0.0}  # mean of several models: of one it may be luck
    for seed in range(6):
        fresh = make_window(None, positions, seed)
        show(fresh, edits[-1], [5, 6])
        for num_probes in errors:
            window = make_window(Patching(num_probes=num_probes, drift_bound=1e9, refresh_share=1.0), positions, seed)
            for opened in edits:
                show(window, opened, [5, 6])
            assert window.num_patches > 5 or num_probes == 500
            errors[num_probes] += float((window.next_logits - fresh.next_logits).abs().max()) / 6
    assert errors[0] > 0.05  # random weights mix all that they read: here patching is not free
    assert errors[60] < errors[0] / 1.5
    assert errors[500] < 1e-3


def test_a_window_is_computed_anew_when_it_drifted_beyond_its_bound(make_window):
    patched, fresh = make_window(Patching(drift_bound=0.0)), make_window()
    for opened in ({3, 80}, {9, 60}, {3, 9, 50}):
        for window in (fresh, patched):
            show(window, opened, [5, 6])
    assert (patched.num_patches, patched.num_refreshes, patched.drift) == (1, 1, 0)
    torch.testing.assert_close(patched.next_logits, fresh.next_logits, atol=1e-3, rtol=1e-3)


def test_a_patched_window_runs_its_edits_and_reads_nothing_else(make_window):
    window = make_window(BARE)
    show(window, {3, 9})
    before = window.num_forwarded
    show(window, {3, 20})
    assert window.num_forwarded - before == 8 + 1 + 1  # eight tokens, a gist, the last row
    assert window.rows.keys.tolist() == rows_of({3, 20}).keys.tolist()
    assert window.cache.num_entries == len(window.rows)


def test_appending_and_forgetting_work_in_a_patched_window(make_window):
    window = make_window(Patching(drift_bound=1e9))
    show(window, {3, 9}, [5])
    show(window, {3, 20}, [5])
    before = window.next_logits.clone()
    assert window.num_patches == 1
    nats = window.nll(np.arange(40, dtype=np.uint32))
    assert np.isfinite(nats).all()
    torch.testing.assert_close(window.next_logits, before)
    window.append(np.array([6], np.uint32))
    assert window.attention_mass(3).shape == (len(window.rows),)
    show(window, {3, 20})
    assert window.rows.keys.tolist() == rows_of({3, 20}).keys.tolist()


def test_a_read_that_fails_leaves_the_window_as_it_was_and_a_forward_that_fails_empties_it(make_window, monkeypatch):
    window, fresh = make_window(Patching(drift_bound=1e9)), make_window()
    show(window, {3, 9}, [5])
    before = window.next_logits.clone()

    def fails(*_args, **_options):
        raise InvalidValueError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(window._reader, "read", fails)
        with pytest.raises(InvalidValueError, match="the disk"):
            show(window, {3, 20}, [5])
    torch.testing.assert_close(window.next_logits, before)
    with monkeypatch.context() as broken:
        broken.setattr(window._base, "_run", fails)
        with pytest.raises(InvalidValueError, match="the disk"):
            show(window, {3, 20}, [5])
    assert (len(window.rows), window.cache.num_entries, window.next_logits) == (0, 0, None)
    for each in (window, fresh):
        show(each, {3, 20}, [5])
    torch.testing.assert_close(window.next_logits, fresh.next_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"rerun_last": 0}, "rerun_last is 0"),
        ({"num_probes": -1}, "num_probes is -1"),
        ({"drift_bound": float("nan")}, "drift_bound is nan"),
        ({"refresh_share": 0}, "refresh_share is 0"),
    ],
)
def test_impossible_ways_of_patching_are_named(options, names):
    with pytest.raises(InvalidValueError, match=names):
        Patching(**options)
