"""Tasks by name, in the order in which a report shows them."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.errors import UnknownNameError
from megacontext.evaluation.tasks.babi import BabiTask
from megacontext.evaluation.tasks.distance import DistanceTask
from megacontext.evaluation.tasks.gap import GapTask
from megacontext.evaluation.tasks.gist_failures import AlongTheWayTask, BoundaryTask, SurpriseTask
from megacontext.evaluation.tasks.going_on import GoingOnTask, LevelsTask
from megacontext.evaluation.tasks.lines import LinesTask
from megacontext.evaluation.tasks.needle import NeedleTask
from megacontext.evaluation.tasks.nicknames import NicknamesTask
from megacontext.evaluation.tasks.order import OrderTask, PlaceTask
from megacontext.evaluation.tasks.task import Task
from megacontext.evaluation.tasks.variables import CommonWordsTask, VariablesTask

__all__ = ["TASKS", "tasks_of"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        GapTask(),
        GoingOnTask(),
        LevelsTask(),
        DistanceTask(),
        NicknamesTask(),
        NeedleTask(),
        VariablesTask(),
        CommonWordsTask(),
        LinesTask(),
        BabiTask(),
        BoundaryTask(),
        SurpriseTask(),
        AlongTheWayTask(),
        OrderTask(),
        PlaceTask(),
    )
}


def tasks_of(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, in the report's order; UnknownNameError lists the names."""
    for name in names:
        if name not in TASKS:
            raise UnknownNameError.of("task", name, list(TASKS))
    return [task for name, task in TASKS.items() if name in names]
