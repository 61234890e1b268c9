"""MegaContext with everything that a base learned with its memory: its gists, and its lens."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.evaluation.methods.focused import FocusedMemory, WindowShape
from megacontext.evaluation.methods.method import Method
from megacontext.gisters.gistnet import LEARNED_GISTER
from megacontext.ports.base import Base, BaseInfo
from megacontext.runtime.opened import OpenedMemory

__all__ = ["LearnedFocus", "with_learned"]


class LearnedFocus(FocusedMemory):
    """The lens ``lensnet``, over a memory whose gists the same base made."""

    name = "learned"
    label = "learned lens"

    def __init__(self, memory: OpenedMemory, base: Base, *, budget_entries: int) -> None:
        super().__init__(memory, base, budget_entries=budget_entries, shape=WindowShape(lens="lensnet"))


def with_learned(kinds: Sequence[type[Method]], info: BaseInfo, *, gister: str) -> list[type[Method]]:
    """These methods, and the learned lens behind ``FocusedMemory`` where base and gists allow it."""
    found = list(kinds)
    if info.has_lens and gister == LEARNED_GISTER:
        found.insert(found.index(FocusedMemory) + 1, LearnedFocus)
    return found
