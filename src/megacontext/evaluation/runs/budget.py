"""Whether a window can hold what a task asks, found out before anything runs."""

from __future__ import annotations

from megacontext.errors import BudgetError
from megacontext.evaluation.methods.focused import recent_room
from megacontext.evaluation.tasks.task import Case, Choice, Item, Plan, Question
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.ports.base import BaseInfo
from megacontext.ports.text import TextCodec
from megacontext.runtime.assembly import DEFAULT_BLOCK_TOKENS
from megacontext.tree.geometry import TreeGeometry

__all__ = ["check_budget"]


def check_budget(budget: int, plan: Plan, info: BaseInfo, codec: TextCodec) -> None:
    """Raise BudgetError naming the smallest budget for this history, unless it tries windows of its own."""
    if budget > info.max_positions:
        raise BudgetError(
            f"budget is {budget}, but {info.name} was made for windows of at most {info.max_positions}: use a budget "
            f"of {info.max_positions} or less"
        )
    if plan.windows:
        return
    case = plan.make()
    recent = recent_room(budget)
    needed = _smallest(_num_tokens(case, codec), recent) + max(_room(item, info, codec) for item in case.items)
    if budget < needed:
        raise BudgetError(
            f"budget is {budget}, but {plan.key} needs {needed} entries for its question, its answer and the coarsest "
            f"view of its history: use a budget of at least {needed}"
        )


def _smallest(num_tokens: int, recent_tokens: int) -> int:
    config = WorkingContextConfig(budget_entries=num_tokens, recent_tokens=recent_tokens)
    return WorkingContext(TreeGeometry(DEFAULT_BLOCK_TOKENS), num_tokens=num_tokens, config=config).smallest_budget


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
        prompt = count(info.question_template.format(question=item.text))
        return prompt + max(item.max_new_tokens, count(item.gold))
    if isinstance(item, Choice):
        prompt = count(info.question_template.format(question=item.text))
        return prompt + max(count(f" {option}") for option in item.options)
    return count(item.cue) + len(item.target_ids)
