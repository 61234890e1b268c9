"""One refocus: scores become a target cut, the target cut becomes the working context."""

from __future__ import annotations

from dataclasses import replace

from megacontext.focus.edits import Edits
from megacontext.focus.scores import validate_scores
from megacontext.focus.working_context import WorkingContext
from megacontext.ports.focus import Allocator, AllocatorConfig, FocusScores
from megacontext.tree.cuts import Cut

__all__ = ["refocus"]


def refocus(
    working_context: WorkingContext,
    scores: FocusScores,
    allocator: Allocator,
    config: AllocatorConfig | None = None,
) -> Edits:
    """Move detail to where ``scores`` say; the budget is the working context's own.

    InvalidScoresError for scores that are not one finite utility >= 0 per entry, or nominate outside the history; the
    working context is then as it was.
    """
    view = working_context.view()
    validate_scores(view, scores)
    config = config or AllocatorConfig(budget_entries=working_context.config.cut_entries)
    config = replace(config, budget_entries=working_context.config.cut_entries)
    return working_context.apply(Cut(*allocator.allocate(view, scores, config)), scores=scores)
