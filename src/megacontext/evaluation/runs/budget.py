"""Whether a window can hold what a task asks, found out before anything runs."""

from __future__ import annotations

from megacontext.errors import BudgetError
from megacontext.evaluation.methods.focused import recent_room, sink_room
from megacontext.evaluation.tasks.task import Case, Choice, Item, Plan, Question, Setup
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.base import BaseInfo, lead_ids, question_ids
from megacontext.ports.text import TextCodec
from megacontext.tree.geometry import TreeGeometry

__all__ = ["check_budget", "needed_budget", "smallest_window"]


def check_budget(setup: Setup, plan: Plan, info: BaseInfo) -> None:
    """Raise BudgetError naming the smallest budget for this history, unless it tries windows of its own."""
    budget, codec = setup.budget_entries, setup.codec
    if budget > info.max_positions:
        raise BudgetError(
            f"budget is {budget}, but {info.name} was made for windows of at most {info.max_positions}: use a budget "
            f"of {info.max_positions} or less"
        )
    case = plan.make()  # raises InvalidValueError where the data cannot make so long a history
    if plan.windows:
        return
    needed = needed_budget(
        budget,
        TreeGeometry(setup.block_tokens),
        gist_width=setup.gist_width,
        num_tokens=_num_tokens(case, codec),
        room=len(lead_ids(info)) + max(_room(item, info, codec) for item in case.items),
    )
    if budget < needed:
        raise BudgetError(
            f"budget is {budget}, but {plan.key} needs {needed} entries for its question, its answer and the coarsest "
            f"view of its history: use a budget of at least {needed}"
        )


def needed_budget(budget: int, tree: TreeGeometry, *, gist_width: int, num_tokens: int, room: int) -> int:
    """``budget``, or if it cannot hold the coarsest view of a history and ``room`` entries, the next that can: what
    stays raw depends on it."""
    while (
        needed := room + smallest_window(tree, gist_width=gist_width, num_tokens=num_tokens, budget_entries=budget)
    ) > budget:
        budget = needed
    return budget


def smallest_window(tree: TreeGeometry, *, gist_width: int, num_tokens: int, budget_entries: int) -> int:
    """Entries of the coarsest view of a history in windows of that budget, whose first and last tokens stay raw."""
    context = WorkingContext(
        tree,
        gist_width=gist_width,
        num_tokens=num_tokens,
        config=WorkingContextConfig(
            budget_entries=num_tokens,
            recent_tokens=recent_room(budget_entries),
            sink_tokens=sink_room(budget_entries),
        ),
    )
    return context.smallest_budget


def _num_tokens(case: Case, codec: TextCodec) -> int:
    return sum(
        len(codec.encode(document.text).token_ids) if document.text else len(document.token_ids)
        for document in case.documents
    )


def _room(item: Item, info: BaseInfo, codec: TextCodec) -> int:
    """Entries of what follows the history."""

    def count(text: str) -> int:
        return len(codec.encode(text).token_ids)

    if isinstance(item, Question):
        prompt = len(question_ids(info, codec, item.text))
        return prompt + max(item.max_new_tokens, count(item.gold))
    if isinstance(item, Choice):
        prompt = len(question_ids(info, codec, item.text))
        return prompt + max(count(f" {option}") for option in item.options)
    return count(item.cue) + len(item.target_ids)
