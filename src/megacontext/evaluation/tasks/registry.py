"""Tasks by name, in the order in which a report shows them."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.errors import UnknownNameError
from megacontext.evaluation.tasks.distance import DistanceTask
from megacontext.evaluation.tasks.needle import NeedleTask
from megacontext.evaluation.tasks.task import Task

__all__ = ["TASKS", "tasks_of"]

TASKS: dict[str, Task] = {task.name: task for task in (NeedleTask(), DistanceTask())}


def tasks_of(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, in the report's order; UnknownNameError lists the names."""
    for name in names:
        if name not in TASKS:
            raise UnknownNameError.of("task", name, list(TASKS))
    return [task for name, task in TASKS.items() if name in names]
