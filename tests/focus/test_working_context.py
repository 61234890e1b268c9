from __future__ import annotations

import pickle

import numpy as np
import pytest

from megacontext.errors import BudgetError, InvalidScoresError, InvalidValueError, InvariantError
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.refocusing import refocus
from megacontext.focus.rows import SETTLED_AGE
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import FocusScores, Nomination
from megacontext.tree.covers import smallest_budget
from megacontext.tree.cuts import Cut, raw_cut
from megacontext.tree.geometry import TreeGeometry

TREE = TreeGeometry(8)


def context(num_tokens=0, *, budget_entries=100, gist_width=1, sink_tokens=0, recent_tokens=0):
    config = WorkingContextConfig(budget_entries=budget_entries, sink_tokens=sink_tokens, recent_tokens=recent_tokens)
    return WorkingContext(TREE, gist_width=gist_width, num_tokens=num_tokens, config=config)


def test_appended_tokens_are_raw_and_a_completed_block_stays_raw():
    wc = context(5)
    wc.extend(5)
    wc.extend(90)
    assert wc.cut == raw_cut(TREE, 0, 100)
    assert wc.cost == wc.budget_entries


def test_over_budget_the_oldest_blocks_collapse_first():
    wc = context(100)
    edits = wc.extend(8)
    assert wc.cut.rows()[:3] == [(1, 0, 8), (1, 8, 16), (0, 16, 24)]
    assert (edits.num_collapsed, edits.first_changed_entry, edits.first_changed_position) == (2, 0, 0)
    assert (wc.levels[2:] == 0).all()


def test_a_bulk_append_leaves_the_recent_tokens_raw():
    wc = context(10**9, budget_entries=500)
    assert wc.num_tokens == 10**9
    assert 500 - 7 < wc.cost <= 500
    raw = wc.starts[wc.levels == 0]
    assert (np.diff(raw) == 8).all()
    assert raw[0] < 10**9 - 300


def test_what_the_last_scores_called_valuable_outlives_what_is_newer():
    wc = context(640, budget_entries=120)
    refocus(
        wc,
        FocusScores(utility=np.full(wc.num_entries, 1e-6), nominations=[Nomination(start=80, stop=96, utility=5.0)]),
        make_allocator("greedy"),
    )
    for _ in range(20):
        wc.extend(8)
    rows = wc.cut.rows()
    assert (0, 80, 88) in rows
    assert (0, 88, 96) in rows


def test_window_offsets_are_where_each_entry_begins():
    wc = context(100, budget_entries=60, gist_width=2)
    offsets = wc.window_offsets().tolist()
    assert offsets[0] == 0
    assert offsets[1:] == np.cumsum(np.where(wc.levels > 0, 2, wc.stops - wc.starts))[:-1].tolist()


def test_reveal_opens_the_whole_path_at_once_and_makes_room():
    wc = context(8**4, budget_entries=150)
    edits = wc.reveal(1000, 1010)
    rows = wc.cut.rows()
    assert (0, 1000, 1008) in rows
    assert (0, 1008, 1016) in rows
    assert edits.num_expanded == 1
    assert wc.cost <= 150


def test_reveal_beyond_the_budget_names_the_smallest_that_works():
    wc = context(8**4, budget_entries=150)
    with pytest.raises(BudgetError, match=r"budget_entries is 150; revealing \[0, 400\).* needs at least 414"):
        wc.reveal(0, 400)
    wc.resize(414)
    wc.reveal(0, 400)
    assert wc.cost == 414


def test_revealed_is_not_pinned():
    wc = context(8**4, budget_entries=80)
    wc.reveal(1000, 1010)
    assert not wc.pinned.any()
    wc.extend(64)
    assert (0, 1000, 1008) not in wc.cut.rows()


def test_pinned_spans_stay_raw_until_unpinned():
    wc = context(8**4, budget_entries=100)
    wc.pin(1000, 1010)
    wc.extend(500)
    assert (0, 1000, 1008) in wc.cut.rows()
    entry = int(np.searchsorted(wc.starts, 1000))
    with pytest.raises(InvalidValueError, match="pinned"):
        wc.collapse(range(entry, entry + 1))
    wc.unpin(1008, 1010)
    assert wc.pins == ((1000, 1008),)
    assert wc.collapse(range(entry + 1, entry + 2)).num_collapsed == 1
    wc.unpin(0, wc.num_tokens)
    wc.extend(500)
    assert (0, 1000, 1008) not in wc.cut.rows()


def test_first_and_recent_tokens_stay_raw_by_configuration():
    wc = context(8**5, budget_entries=120, sink_tokens=4, recent_tokens=20)
    assert wc.cut.rows()[0] == (0, 0, 8)
    assert wc.pinned.tolist() == [row[1] < 4 or row[2] > 8**5 - 20 for row in wc.cut.rows()]
    wc.unpin(0, 8**5)
    assert wc.pinned[0]
    assert wc.pinned[-1]


def test_shrinking_collapses_and_growing_allows():
    wc = context(8**4, budget_entries=300)
    wc.resize(50)
    assert wc.cost <= 50
    wc.resize(300)
    wc.reveal(0, 200)
    assert wc.cost > 200


def test_shrinking_too_far_names_the_smallest_budget_and_changes_nothing():
    wc = context(8**4 + 3, budget_entries=300)
    before = wc.cut
    smallest = smallest_budget(TREE, 8**4 + 3)
    with pytest.raises(BudgetError, match=f"raise the budget to {smallest},"):
        wc.resize(smallest - 1)
    assert wc.cut is before
    assert wc.budget_entries == 300


@pytest.mark.parametrize("gist_width", [1, 3])
def test_expand_and_collapse_undo_each_other_at_every_level(gist_width):
    wc = context(8**4, budget_entries=2000, gist_width=gist_width)
    wc.resize(200)
    wc.resize(2000)
    for level in set(wc.levels[wc.levels > 0].tolist()):
        before = wc.cut
        entry = int(np.argmax(wc.levels == level))
        wc.expand(entry)
        expanded = wc.cut
        siblings = range(entry, entry + (1 if level == 1 else 8))
        wc.collapse(siblings)
        assert wc.cut == before
        wc.expand(entry)
        assert wc.cut == expanded
        wc.collapse(siblings)


def test_expanding_beyond_the_budget_says_what_it_costs():
    wc = context(8**4, budget_entries=100)
    cost = wc.cost
    with pytest.raises(BudgetError, match=f"the cut costs {cost + 7}:"):
        wc.expand(int(np.argmax(wc.levels > 0)))


@pytest.mark.parametrize("entry", [-1, 10_000])
def test_expanding_an_entry_that_is_not_there_is_an_error(entry):
    with pytest.raises(InvalidValueError, match="does not exist"):
        context(200, budget_entries=100).expand(entry)


def test_expanding_raw_tokens_is_an_error():
    with pytest.raises(InvalidValueError, match="raw tokens already"):
        context(50).expand(0)


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 4), (4, 4), (5, 3), (0, 101)], ids=["negative", "empty", "backwards", "past the end"]
)
@pytest.mark.parametrize("operation", ["reveal", "pin", "unpin"])
def test_a_span_outside_the_history_is_an_error(operation, start, stop):
    with pytest.raises(InvalidValueError, match="not within the 100 tokens of the history"):
        getattr(context(100), operation)(start, stop)


def test_entries_age_by_refocus_and_start_again_when_edited():
    wc = context(640, budget_entries=150)
    assert (wc.ages == SETTLED_AGE).all()
    wc.reveal(0, 8)
    assert wc.ages[0] == 0
    wc.apply(wc.cut)
    assert wc.ages[0] == 1
    assert wc.ages[-1] == SETTLED_AGE + 1


def test_arrays_are_read_only_snapshots():
    wc = context(100)
    view, levels = wc.view(), wc.levels
    wc.extend(50)
    assert len(view.levels) == len(levels) != wc.num_entries
    for rows in (wc.levels, wc.starts, wc.stops, wc.pinned, wc.ages):
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, start, start + 8) for start in range(0, 96, 8)], "does not end at 100"),
        ([(1, 0, 8), *((0, start, min(start + 8, 100)) for start in range(8, 100, 8))], "pins"),
        ([(2, 0, 64), (0, 64, 72), (0, 80, 88), (0, 88, 96), (0, 96, 100)], "cover"),
    ],
)
def test_an_illegal_target_is_refused_and_changes_nothing(rows, message):
    wc = context(100)
    wc.pin(0, 4)
    before = wc.cut
    with pytest.raises(InvariantError, match=message):
        wc.apply(Cut.of(rows))
    assert wc.cut is before


def test_a_target_over_budget_is_refused():
    wc = context(100, budget_entries=60)
    with pytest.raises(InvariantError, match="budget: the cut costs 100 entries, the budget is 60"):
        wc.apply(raw_cut(TREE, 0, 100))


@pytest.mark.parametrize("gist_width", [0, 8, -1])
def test_a_gist_width_that_saves_nothing_is_an_error(gist_width):
    with pytest.raises(InvalidValueError, match="from 1 to 7"):
        context(gist_width=gist_width)


@pytest.mark.parametrize("name", ["budget_entries", "sink_tokens", "recent_tokens"])
def test_negative_settings_are_errors(name):
    with pytest.raises(InvalidValueError, match=f"{name} is -1"):
        WorkingContextConfig(**{name: -1})


def test_a_history_does_not_shrink():
    with pytest.raises(InvalidValueError, match="num_tokens is -1"):
        context(10).extend(-1)


# What the research prototype got wrong.


def test_a_history_longer_than_the_window_starts_and_is_collapsed_not_dropped():
    wc = context(100_000, budget_entries=64)
    assert int(wc.starts[0]) == 0
    assert int(wc.stops[-1]) == 100_000
    assert (wc.starts[1:] == wc.stops[:-1]).all()
    assert wc.cost <= 64


def test_never_over_budget_in_a_thousand_steps():
    wc = context(50, budget_entries=64, sink_tokens=4, recent_tokens=8)
    for step in range(1000):
        wc.extend(step % 5)
        assert wc.cost <= 64


def test_collapse_checks_alignment():
    wc = context(256, budget_entries=100)
    wc.resize(40)
    first = int(np.argmax(wc.levels == 1))
    assert (wc.levels[first : first + 8] == 1).all()
    assert wc.starts[first + 1] % 64 != 0
    before = wc.cut
    for siblings in (range(first + 1, first + 9), range(first, first + 7), range(first, first + 8, 2), range(99)):
        with pytest.raises(InvalidValueError):
            wc.collapse(siblings)
    assert wc.cut is before


def test_a_short_start_gains_every_upper_level_and_chunks_do_not_matter():
    whole = context(8**4, budget_entries=40)
    pieces = context(3, budget_entries=40)
    while pieces.num_tokens < 8**4:
        pieces.extend(min(13, 8**4 - pieces.num_tokens))
    whole.resize(1)
    pieces.resize(1)
    assert whole.cut == pieces.cut == Cut.of([(4, 0, 8**4)])


def test_an_append_that_fails_has_changed_nothing():
    wc = context(63, budget_entries=14 + 7 * 7)
    wc.pin(0, 56)
    before, pins = wc.cut, wc.pins
    with pytest.raises(BudgetError, match="needs at least 64"):
        wc.extend(8 + 7)
    assert wc.cut is before
    assert wc.pins == pins
    assert wc.num_tokens == 63


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.5])
def test_scores_that_are_no_numbers_are_refused(bad):
    wc = context(100, budget_entries=60)
    before = wc.cut
    utility = np.ones(wc.num_entries)
    utility[3] = bad
    with pytest.raises(InvalidScoresError, match="entry 3"):
        refocus(wc, FocusScores(utility=utility), make_allocator("greedy"))
    with pytest.raises(InvalidScoresError, match="entry 3"):
        wc.apply(wc.cut, scores=FocusScores(utility=utility))
    assert wc.cut is before


@pytest.mark.parametrize("change", [-1, 1])
def test_scores_of_the_wrong_length_are_refused(change):
    wc = context(100, budget_entries=60)
    with pytest.raises(InvalidScoresError, match=f"the working context has {wc.num_entries} entries"):
        refocus(wc, FocusScores(utility=np.ones(wc.num_entries + change)), make_allocator("greedy"))


def test_several_contexts_over_one_history_do_not_share_their_layout():
    contexts = [context(8**4, budget_entries=100) for _ in range(3)]
    contexts[0].reveal(0, 8)
    contexts[1].pin(2000, 2008)
    assert (0, 0, 8) in contexts[0].cut.rows()
    assert (0, 0, 8) not in contexts[1].cut.rows()
    assert contexts[2].cut == context(8**4, budget_entries=100).cut


def test_a_long_life_leaves_no_log_behind():
    wc = context(8**4, budget_entries=100)
    size = len(pickle.dumps(wc))
    for at in range(300):
        wc.reveal(at * 8, at * 8 + 8)
        wc.pin(at * 8, at * 8 + 8)
        wc.unpin(at * 8, at * 8 + 8)
        wc.apply(wc.cut)
    assert len(pickle.dumps(wc)) < 2 * size
