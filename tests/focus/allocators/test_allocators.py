"""Both allocators through one matrix, and against brute force on tiny trees."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError, InvalidScoresError, InvalidValueError, UnknownNameError
from megacontext.focus.allocators.registry import known_allocators, make_allocator
from megacontext.focus.allocators.value import cut_value
from megacontext.focus.scores import UtilityField
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import Allocator, AllocatorConfig, FocusScores, Nomination
from megacontext.tree.cuts import Cut, cut_cost, validate_cut
from megacontext.tree.geometry import TreeGeometry

NAMES = ["greedy", "optimal"]


@st.composite
def scenes(draw, *, most_tokens=5000, block_tokens=(8, 9, 16)):
    """A working context in some state, and scores for it."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tree = TreeGeometry(draw(st.sampled_from(block_tokens)))
    num_tokens = draw(st.integers(1, most_tokens))
    gist_width = draw(st.integers(1, 3))
    roomy = WorkingContextConfig(budget_entries=10**6, sink_tokens=0, recent_tokens=draw(st.sampled_from([0, 12])))
    wc = WorkingContext(tree, gist_width=gist_width, num_tokens=num_tokens, config=roomy)
    for budget_entries in draw(st.lists(st.integers(30, 400), min_size=1, max_size=2)):
        try:
            wc.resize(budget_entries)
            at = int(random.integers(0, num_tokens))
            wc.pin(at, at + 1) if draw(st.booleans()) else wc.reveal(at, at + 1)
        except BudgetError:
            continue
    density = random.exponential(size=wc.num_entries) ** draw(st.sampled_from([1, 4]))
    density *= random.random(wc.num_entries) < draw(st.sampled_from([0.0, 0.05, 1.0]))
    starts = random.integers(0, num_tokens, draw(st.integers(0, 6))).tolist()
    nominations = [
        Nomination(start=start, stop=min(start + 1 + int(random.integers(0, 40)), num_tokens), utility=worth)
        for start, worth in zip(starts, (10 * random.random(len(starts))).tolist(), strict=True)
    ]
    return wc, FocusScores(utility=density * (wc.stops - wc.starts), nominations=nominations)


def allocate(name, wc, scores, **settings):
    config = AllocatorConfig(**{"budget_entries": wc.budget_entries, **settings})
    return Cut(*make_allocator(name).allocate(wc.view(), scores, config))


LIMITS = st.fixed_dictionaries(
    {
        "gist_value": st.sampled_from([0.0, 0.2, 0.7]),
        "max_edits": st.sampled_from([0, 1, 5]),
        "cooldown": st.sampled_from([0, 2]),
        "swap_margin": st.sampled_from([0.0, 0.3]),
        "edit_cost": st.sampled_from([0.0, 0.01]),
    }
)


@pytest.mark.parametrize("name", NAMES)
@given(scene=scenes(), limits=LIMITS)
def test_targets_are_legal_within_budget_keep_pins_and_are_deterministic(name, scene, limits):
    wc, scores = scene
    target = allocate(name, wc, scores, **limits)
    validate_cut(wc.tree, target, wc.num_tokens, gist_width=wc.gist_width, budget_entries=wc.budget_entries)
    shown = set(target.rows())
    assert all(row in shown for row, pinned in zip(wc.cut.rows(), wc.pinned, strict=True) if pinned)
    assert allocate(name, wc, scores, **limits) == target


@given(scene=scenes(), gist_value=st.sampled_from([0.0, 0.02, 0.2, 0.7]))
def test_greedy_never_beats_optimal(scene, gist_value):
    wc, scores = scene
    field = UtilityField(wc.view(), scores)
    greedy = cut_value(allocate("greedy", wc, scores, gist_value=gist_value), field, gist_value)
    optimal = cut_value(allocate("optimal", wc, scores, gist_value=gist_value), field, gist_value)
    assert greedy <= optimal * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("gist_value", [0.0, 0.02, 0.2, 0.7])
def test_greedy_stays_close_on_average_where_the_budget_is_a_few_blocks(gist_value):
    """A few blocks more or less are much of a small budget, so a single scene may fall further behind."""
    shares = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        wc = context(int(random.integers(500, 5000)), budget_entries=10**6)
        wc.resize(int(random.integers(120, 400)))
        scores = FocusScores(utility=random.exponential(size=wc.num_entries) ** 2)
        field = UtilityField(wc.view(), scores)
        greedy, optimal = (
            cut_value(allocate(name, wc, scores, gist_value=gist_value), field, gist_value) for name in NAMES
        )
        shares.append(greedy / optimal if optimal > 0 else 1.0)
    assert np.mean(shares) >= 0.98


@pytest.mark.parametrize("seed", range(3))
def test_greedy_stays_close_where_hundreds_of_nodes_open_below_coarse_gists(seed):
    wc = context(200_000, budget_entries=60)
    wc.resize(3000)
    utility = np.random.default_rng(seed).exponential(size=wc.num_entries) ** 2
    scores = FocusScores(utility=utility)
    field = UtilityField(wc.view(), scores)
    greedy, optimal = (cut_value(allocate(name, wc, scores), field, 0.2) for name in NAMES)
    assert 0.999 * optimal <= greedy <= optimal * (1 + 1e-9)


def every_cut(tree, num_tokens, must_be_raw):
    """All legal cuts of a tiny history, as lists of rows."""

    def cuts_of(level, start):
        block = (start, start + tree.width(level))
        pinned = any(block[0] <= token < block[1] for token in must_be_raw)
        if not pinned:
            yield [(level, *block)]
        if level == 1:
            yield [(0, *block)]
            return
        starts = range(*block, tree.width(level - 1))
        for parts in itertools.product(*(list(cuts_of(level - 1, child)) for child in starts)):
            yield [row for part in parts for row in part]

    roots, position = [], 0
    for level in range(tree.num_levels(num_tokens) - 1, 0, -1):
        while position + tree.width(level) <= num_tokens:
            roots.append(list(cuts_of(level, position)))
            position += tree.width(level)
    tail = [[(0, position, num_tokens)]] if position < num_tokens else [[]]
    for parts in itertools.product(*roots, tail):
        yield Cut.of(row for part in parts for row in part)


@settings(max_examples=25, deadline=None)
@given(
    num_tokens=st.integers(64, 100),
    gist_width=st.integers(1, 3),
    spare=st.integers(0, 60),
    pinned=st.sets(st.integers(0, 63), max_size=1),
    gist_value=st.sampled_from([0.0, 0.2, 0.8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_optimal_is_what_brute_force_finds(num_tokens, gist_width, spare, pinned, gist_value, seed):
    random = np.random.default_rng(seed)
    tree = TreeGeometry(8)
    config = WorkingContextConfig(budget_entries=10**4, sink_tokens=0, recent_tokens=0)
    wc = WorkingContext(tree, gist_width=gist_width, num_tokens=num_tokens, config=config)
    for token in pinned:
        wc.pin(token, token + 1)
    cuts = list(every_cut(tree, num_tokens, pinned))
    wc.resize(min(cut_cost(cut, gist_width) for cut in cuts) + spare)
    scores = FocusScores(
        utility=random.exponential(size=wc.num_entries) ** 3,
        nominations=[Nomination(start=int(at), stop=int(at) + 5, utility=2.0) for at in random.integers(0, 50, 2)],
    )
    field = UtilityField(wc.view(), scores)
    affordable = [cut for cut in cuts if cut_cost(cut, gist_width) <= wc.budget_entries]
    best = max(cut_value(cut, field, gist_value) for cut in affordable)
    target = allocate("optimal", wc, scores, gist_value=gist_value)
    assert target in affordable
    assert cut_value(target, field, gist_value) == pytest.approx(best, rel=1e-9)


def context(num_tokens=8**4, budget_entries=150, **config):
    config = {"sink_tokens": 0, "recent_tokens": 0, **config}
    return WorkingContext(
        TreeGeometry(8), num_tokens=num_tokens, config=WorkingContextConfig(budget_entries=budget_entries, **config)
    )


def flat(wc, *nominations):
    return FocusScores(
        utility=np.full(wc.num_entries, 1e-9),
        nominations=[Nomination(start=start, stop=stop, utility=utility) for start, stop, utility in nominations],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_nominated_span_is_revealed_in_one_step_however_deep_it_lies(name):
    wc = context()
    rows = allocate(name, wc, flat(wc, (700, 712, 1.0))).rows()
    assert (0, 696, 704) in rows
    assert (0, 704, 712) in rows


@pytest.mark.parametrize("name", NAMES)
def test_the_budget_that_a_needle_leaves_goes_to_the_next_best(name):
    wc = context()
    utility = np.linspace(0, 1, wc.num_entries) ** 4 + 1e-6
    target = allocate(name, wc, FocusScores(utility=utility, nominations=[Nomination(start=9, stop=12, utility=50.0)]))
    assert wc.budget_entries - cut_cost(target, 1) < 7
    assert (0, 8, 16) in target.rows()
    assert (0, 8**4 - 8, 8**4) in target.rows()


def test_greedy_without_scores_leaves_what_is_open():
    wc = context()
    wc.reveal(700, 712)
    assert allocate("greedy", wc, FocusScores(utility=np.zeros(wc.num_entries))) == wc.cut


def test_cooldown_lets_changed_entries_rest():
    wc = context()
    wc.reveal(700, 704)
    wc.apply(wc.cut)
    scores = flat(wc, (3000, 3200, 5.0))
    assert (0, 696, 704) in allocate("greedy", wc, scores, cooldown=2).rows()
    assert (0, 696, 704) not in allocate("greedy", wc, scores, cooldown=1).rows()


def test_cooldown_yields_where_the_budget_leaves_no_choice():
    wc = context(budget_entries=500)
    wc.reveal(0, 400)
    target = allocate("greedy", wc, flat(wc), cooldown=5, budget_entries=100)
    assert cut_cost(target, 1) <= 100


def test_swap_margin_keeps_what_is_nearly_as_good():
    wc = context(budget_entries=45)  # enough for one path of four levels, not for two
    wc.reveal(0, 8)
    open_now = (0, 8, 1.0)
    assert (0, 0, 8) not in allocate("greedy", wc, flat(wc, open_now, (2048, 2056, 1.2))).rows()
    assert (0, 0, 8) in allocate("greedy", wc, flat(wc, open_now, (2048, 2056, 1.2)), swap_margin=0.5).rows()
    target = allocate("greedy", wc, flat(wc, open_now, (1024, 1032, 20.0)), swap_margin=0.5)
    assert (0, 1024, 1032) in target.rows()


@pytest.mark.parametrize("max_edits", [1, 2, 3])
def test_max_edits_takes_the_most_valuable_first(max_edits):
    wc = context(budget_entries=300)
    wc.resize(60)
    wc.resize(300)
    spots = [(0, 8, 9.0), (1024, 1032, 5.0), (2048, 2056, 3.0)]
    rows = allocate("greedy", wc, flat(wc, *spots), max_edits=max_edits).rows()
    opened = [(0, start, stop) in rows for start, stop, _ in spots]
    assert opened == [True] * max_edits + [False] * (3 - max_edits)


def test_edits_early_in_the_window_must_be_worth_their_recomputation():
    wc = context(budget_entries=300)
    wc.resize(60)
    wc.resize(300)
    late = (8**4 - 512, 8**4 - 504)
    scores = flat(wc, (0, 8, 0.01), (*late, 50.0))
    free = allocate("greedy", wc, scores).rows()
    dear = allocate("greedy", wc, scores, edit_cost=0.01).rows()
    assert (0, 0, 8) in free
    assert (0, 0, 8) not in dear
    assert (0, *late) in dear


def test_nothing_is_edited_where_no_edit_is_worth_its_cost():
    wc = context(budget_entries=300)
    assert allocate("greedy", wc, flat(wc, (0, 8, 0.5)), edit_cost=10.0) == wc.cut


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limits", [{"max_edits": 1}, {"edit_cost": 10.0}, {"cooldown": 5}, {}])
def test_over_budget_it_collapses_whatever_the_limits(name, limits):
    wc = context(budget_entries=400)
    assert wc.cost > 60
    target = allocate(name, wc, flat(wc), budget_entries=60, **limits)
    validate_cut(wc.tree, target, wc.num_tokens, budget_entries=60)
    assert cut_cost(target, wc.gist_width) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_below_the_pins_is_an_error(name):
    wc = context(budget_entries=150)
    wc.pin(700, 740)
    with pytest.raises(BudgetError, match="budget_entries is 20"):
        allocate(name, wc, flat(wc), budget_entries=20)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_history_and_a_lonely_tail_are_fine(name):
    for num_tokens in (0, 5):
        wc = context(num_tokens)
        assert allocate(name, wc, FocusScores(utility=np.ones(wc.num_entries))) == wc.cut


@pytest.mark.parametrize("name", NAMES)
def test_bad_scores_are_refused(name):
    wc = context()
    with pytest.raises(InvalidScoresError):
        allocate(name, wc, FocusScores(utility=np.full(wc.num_entries, np.nan)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "setting", [{"gist_value": 1.0}, {"gist_value": -0.1}, {"max_edits": -1}, {"edit_cost": float("nan")}]
)
def test_settings_outside_their_limits_are_refused(name, setting):
    wc = context()
    with pytest.raises(InvalidValueError, match=next(iter(setting))):
        allocate(name, wc, flat(wc), **setting)


def test_the_registry_knows_its_allocators():
    assert known_allocators() == NAMES
    for name in NAMES:
        made = make_allocator(name)
        assert isinstance(made, Allocator)
        assert made.name == name
    with pytest.raises(UnknownNameError, match="unknown allocator 'best'; known: greedy, optimal"):
        make_allocator("best")
