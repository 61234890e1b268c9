"""What every ``Allocator`` promises, as a test class to subclass: give it ``make`` and run pytest."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import BudgetError, InvalidScoresError
from megacontext.focus.allocators.optimal import OptimalAllocator
from megacontext.focus.allocators.value import cut_value
from megacontext.focus.scores import UtilityField
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.focus import Allocator, AllocatorConfig, FocusScores, Nomination
from megacontext.tree.cuts import Cut, validate_cut
from megacontext.tree.geometry import TreeGeometry

__all__ = ["AllocatorSuite", "random_scene"]

Scene = tuple[WorkingContext, FocusScores]
NUM_SCENES = 40


def random_scene(seed: int, *, most_tokens: int = 5000) -> Scene:
    """A working context in some state, some of it pinned, and scores for it, with nominations below its gists."""
    random = np.random.default_rng(seed)
    tree, num_tokens = TreeGeometry(int(random.choice([8, 9, 16]))), int(random.integers(1, most_tokens))
    roomy = WorkingContextConfig(budget_entries=10**6, sink_tokens=0, recent_tokens=int(random.choice([0, 12])))
    wc = WorkingContext(tree, gist_width=int(random.integers(1, 4)), num_tokens=num_tokens, config=roomy)
    for budget_entries in random.integers(30, 400, 2).tolist():
        place = int(random.integers(0, num_tokens))
        try:
            wc.resize(budget_entries)
            (wc.pin if random.random() < 0.5 else wc.reveal)(place, place + 1)
        except BudgetError:
            continue
    density = random.exponential(size=wc.num_entries) ** int(random.choice([1, 4]))
    density *= random.random(wc.num_entries) < random.choice([0.0, 0.05, 1.0])
    starts = random.integers(0, num_tokens, int(random.integers(0, 6))).tolist()
    nominations = [
        Nomination(start=start, stop=min(start + int(random.integers(1, 40)), num_tokens), utility=10 * random.random())
        for start in starts
    ]
    return wc, FocusScores(utility=density * (wc.stops - wc.starts), nominations=nominations)


class AllocatorSuite:
    """Subclass it as ``TestMyAllocator`` and override ``make``. seeds: of the scenes that it meets."""

    seeds = range(NUM_SCENES)

    def make(self) -> Allocator:
        """A fresh allocator."""
        raise NotImplementedError

    def target(self, wc: WorkingContext, scores: FocusScores, **limits: float) -> Cut:
        """What it makes of scores."""
        config = AllocatorConfig(**{"budget_entries": wc.budget_entries, **limits})  # type: ignore[arg-type]
        return Cut(*self.make().allocate(wc.view(), scores, config))

    def test_it_is_an_allocator(self) -> None:
        allocator = self.make()
        assert isinstance(allocator, Allocator)
        assert allocator.name

    @pytest.mark.parametrize(
        "limits", [{}, {"gist_value": 0.0}, {"gist_value": 0.7, "max_edits": 5}, {"cooldown": 2, "swap_margin": 0.3}]
    )
    def test_targets_are_legal_within_budget_and_keep_what_is_pinned(self, limits: dict[str, float]) -> None:
        for seed in self.seeds:
            wc, scores = random_scene(seed)
            target = self.target(wc, scores, **limits)
            validate_cut(wc.tree, target, wc.num_tokens, gist_width=wc.gist_width, budget_entries=wc.budget_entries)
            shown = set(target.rows())
            pinned = [row for row, is_pinned in zip(wc.cut.rows(), wc.pinned, strict=True) if is_pinned]
            assert shown >= set(pinned), f"scene {seed}"

    def test_the_same_question_has_the_same_answer(self) -> None:
        for seed in self.seeds:
            wc, scores = random_scene(seed)
            assert self.target(wc, scores) == self.target(wc, scores), f"scene {seed}"

    def test_it_is_worth_no_more_than_the_best(self) -> None:
        """A cut that were would not be one of the history, or would count something twice."""
        for seed in self.seeds:
            wc, scores = random_scene(seed)
            config = AllocatorConfig(budget_entries=wc.budget_entries)
            best = Cut(*OptimalAllocator().allocate(wc.view(), scores, config))
            field = UtilityField(wc.view(), scores)
            found = cut_value(self.target(wc, scores), field, config.gist_value)
            assert found <= cut_value(best, field, config.gist_value) * (1 + 1e-9) + 1e-12, f"scene {seed}"

    def test_pins_without_room_are_a_budget_error(self) -> None:
        tree = TreeGeometry(8)
        wc = WorkingContext(tree, num_tokens=512, config=WorkingContextConfig(budget_entries=200, recent_tokens=64))
        scores = FocusScores(utility=np.ones(wc.num_entries))
        with pytest.raises(BudgetError):
            self.target(wc, scores, budget_entries=32)

    @pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
    def test_scores_that_are_none_are_refused(self, bad: float) -> None:
        wc, _ = random_scene(0)
        with pytest.raises(InvalidScoresError):
            self.target(wc, FocusScores(utility=np.full(wc.num_entries, bad)))
