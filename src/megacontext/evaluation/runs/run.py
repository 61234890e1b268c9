"""``megacontext eval``: every method on every history of the tasks, one record after another."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.bases.registry import BaseHandle
from megacontext.errors import BaseModelError, BudgetError, DeviceMemoryError, InvalidValueError
from megacontext.evaluation.data_folder import DataFolder
from megacontext.evaluation.methods.contenders import Contender, default_gister, pick, rows_for
from megacontext.evaluation.methods.method import Span
from megacontext.evaluation.runs.budget import check_budget
from megacontext.evaluation.runs.histories import CaseHistories, EvidenceFinder, Shelf
from megacontext.evaluation.runs.records import Record, RunFolder
from megacontext.evaluation.runs.trials import ItemResult, run_item
from megacontext.evaluation.stamp import stamp
from megacontext.evaluation.tasks.registry import tasks_of
from megacontext.evaluation.tasks.task import Item, Plan, Setup, Task
from megacontext.runtime.shapes import DEFAULT_BLOCK_TOKENS
from megacontext.tree.geometry import TreeGeometry
from megacontext.values import seed as valid_seed
from megacontext.values import whole_number

__all__ = ["EvalConfig", "EvalRun", "evaluate"]

USUAL_BUDGET, QUICK_BUDGET = 1024, 512
SHORTEST_LENGTH = 1024
MOST_SAMPLES = 10_000  # every history is planned before the first is run
LONGEST_LENGTH = 1 << 24  # a history is made as one text, in memory


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """budget_entries, num_samples: 0 for what is usual; lengths: of histories in tokens, () for each task's own;
    methods: names of rows, () for all; is_quick: little of everything; block_tokens, gist_width: the shape of the
    memories that are made."""

    base: str
    tasks: tuple[str, ...]
    out: Path
    data: Path | None = None
    budget_entries: int = 0
    num_samples: int = 0
    lengths: tuple[int, ...] = ()
    seed: int = 0
    methods: tuple[str, ...] = ()
    is_quick: bool = False
    resume: bool = False
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    gist_width: int = 1

    def __post_init__(self) -> None:
        TreeGeometry(self.block_tokens)
        whole_number("gist_width", self.gist_width, least=1, most=self.block_tokens - 1, of="vectors")
        whole_number("samples", self.num_samples, most=MOST_SAMPLES)
        valid_seed(self.seed)
        whole_number("budget", self.budget_entries, of="entries")
        for length in self.lengths:
            whole_number("length", length, least=SHORTEST_LENGTH, most=LONGEST_LENGTH, of="tokens")
        if not self.tasks:
            raise InvalidValueError("no task is named; `megacontext eval --list` shows them")

    @property
    def budget(self) -> int:
        return self.budget_entries or (QUICK_BUDGET if self.is_quick else USUAL_BUDGET)


@dataclass(frozen=True, kw_only=True)
class EvalRun:
    """What a run is of. rows: the methods of each task in the table's order, also those that this base cannot bring."""

    folder: RunFolder
    tasks: Sequence[Task]
    rows: Mapping[str, Sequence[Contender]]

    def rows_of(self, task: Task) -> Sequence[Contender]:
        """The rows of one task's table."""
        return self.rows[task.name]


def evaluate(config: EvalConfig, *, on_step: Callable[[str, int, int], None] | None = None) -> EvalRun:
    """Run what is not recorded yet. ``on_step(what, number, of)`` comes before each history.

    Raises UnknownNameError, InvalidValueError (data, lengths, settings), MemoryExistsError (``out``), BudgetError (the
    budget cannot hold what a task needs), before anything is overwritten; BaseModelError if the model cannot be loaded.
    """
    tasks = tasks_of(config.tasks)
    handle = BaseHandle(config.base)
    rows = {task.name: rows_for(task.methods, handle.info) for task in tasks}
    pick([row for some in rows.values() for row in some], config.methods)  # a name that no task knows
    if config.methods:
        rows = {name: [row for row in some if row.name in config.methods] for name, some in rows.items()}
    data = DataFolder(config.data)
    for task in tasks:
        data.require(task.name, task.needs, task.reads)
    setup = Setup(
        codec=handle.codec,
        data=data,
        positions=handle.info.max_positions,
        budget_entries=config.budget,
        seed=config.seed,
        num_samples=config.num_samples,
        lengths=config.lengths,
        is_quick=config.is_quick,
        block_tokens=config.block_tokens,
        gist_width=config.gist_width,
    )
    plans = {task.name: task.plans(setup) for task in tasks}
    for planned in plans.values():
        for plan in _one_of_each(planned):
            check_budget(setup, plan, handle.info)
    folder = RunFolder(config.out, _settings(config, handle, data), stamp(), resume=config.resume)
    runner = _Runner(folder, handle, config)
    total, number = sum(map(len, plans.values())), 0
    try:
        for task in tasks:
            for at, plan in enumerate(plans[task.name]):
                if on_step:
                    on_step(plan.key, number, total)
                runner.run(task, rows[task.name], plan, _donors(plans[task.name], at))
                number += 1
    finally:
        runner.close()
        folder.close()
    return EvalRun(folder=folder, tasks=tasks, rows=rows)


def _settings(config: EvalConfig, handle: BaseHandle, data: DataFolder) -> dict[str, Any]:
    """What decides the figures."""
    info = handle.info
    return {
        "base": info.name,
        "base_revision": info.revision,
        "base_fingerprint": info.fingerprint,
        "gist_net": info.gist_net,
        "has_lens": info.has_lens,
        "weights": handle.config.get("weights", {}),  # digests of a core's nets: its lens may be taught anew in place
        "default_gister": default_gister(info),
        "positions": info.max_positions,
        "tasks": list(config.tasks),
        "budget_entries": config.budget,
        "num_samples": config.num_samples,
        "lengths": list(config.lengths),
        "seed": config.seed,
        "methods": list(config.methods),
        "is_quick": config.is_quick,
        "block_tokens": config.block_tokens,
        "gist_width": config.gist_width,
        "data": data.sizes,
    }


def _one_of_each(plans: Sequence[Plan]) -> list[Plan]:
    """The first of each length and domain: what the data cannot make, it can make of none of them. Kinds of questions
    are as long, and making a million tokens takes seconds."""
    return list({(plan.facets.get("length"), plan.facets.get("domain")): plan for plan in reversed(plans)}.values())


def _donors(plans: Sequence[Plan], at: int) -> list[Plan]:
    """Other histories, those of the same length if there are some."""
    others = [plan for plan in [*plans[at + 1 :], *plans[:at]] if plan.key != plans[at].key]
    length = plans[at].facets.get("length")
    return [plan for plan in others if plan.facets.get("length") == length] or others


class _Runner:
    def __init__(self, folder: RunFolder, handle: BaseHandle, config: EvalConfig) -> None:
        self._folder = folder
        self._handle = handle
        self._budget = config.budget
        self._shelf = Shelf(folder.work, handle, block_tokens=config.block_tokens, gist_width=config.gist_width)

    def close(self) -> None:
        self._shelf.close()

    def run(self, task: Task, rows: Sequence[Contender], plan: Plan, donors: Sequence[Plan]) -> None:
        """All methods in all windows on one history, as far as they are not recorded."""
        windows = plan.windows or {self._budget: ""}
        missing = [
            (budget, row)
            for budget in windows
            for row in rows
            if not self._folder.has((task.name, plan.key, budget, row.name))
        ]
        if not missing:
            return
        self._shelf.keep(plan)
        try:
            self._shelf.case(plan)
        except InvalidValueError as error:  # the first of its length could be made
            for budget, row in missing:
                self._folder.add(self._record(task, plan, budget, row, skipped=str(error)))
            return
        items, evidence, history = self._items(plan)
        self._folder.check_history(task.name, plan.key, history)
        histories = CaseHistories(self._shelf, plan, donors)
        for budget, row in missing:
            began = time.perf_counter()
            results, skipped, may_run = self._try(row, histories, budget, items, evidence)
            told = {"skipped": skipped, "may_run": may_run, "history": history, "items": results}
            seconds = round(time.perf_counter() - began, 3)
            self._folder.add(self._record(task, plan, budget, row, seconds=seconds, **told))

    def _record(self, task: Task, plan: Plan, budget: int, row: Contender, **told: Any) -> Record:
        window = (plan.windows or {}).get(budget)
        facets = {**plan.facets, **({"window": window} if window else {})}
        return Record(task=task.name, key=plan.key, facets=facets, budget=budget, method=row.name, **told)

    def _items(self, plan: Plan) -> tuple[Sequence[Item], list[tuple[Span, ...]], str]:
        """What is asked, where in the history each answer stands, and a digest of the history."""
        items = self._shelf.case(plan).items
        memory = self._shelf.memory(plan, default_gister(self._handle.info))
        token_ids = memory.tokens(0, memory.num_tokens)
        finder = EvidenceFinder(memory.codec, token_ids)
        history = hashlib.sha256(token_ids.astype("<u4").tobytes()).hexdigest()[:16]
        return items, [finder.spans(item.evidence) for item in items], history

    def _try(
        self,
        row: Contender,
        histories: CaseHistories,
        budget: int,
        items: Sequence[Item],
        evidence: Sequence[tuple[Span, ...]],
    ) -> tuple[tuple[ItemResult, ...], str, bool]:
        """Results of all items that the window has room for, why others have none, and whether they may have some
        another time."""
        if row.missing:
            return (), f"{self._handle.info.name} {row.missing}", False
        base = self._handle.load()  # of a model that cannot be loaded there is nothing to record
        try:
            method = row.make(histories, base, budget)
            try:
                found, reasons = [], []
                for item, spans in zip(items, evidence, strict=True):
                    try:
                        found.append(run_item(method, item, spans))
                    except BudgetError as error:  # what follows the history takes more room than another item
                        found.append(ItemResult(facets=dict(item.facets), measures={}, evidence=tuple(spans)))
                        reasons.append(str(error))
                return tuple(found) if len(reasons) < len(found) else (), next(iter(reasons), ""), False
            finally:
                method.close()
        except (BaseModelError, InvalidValueError) as error:
            return (), str(error), isinstance(error, DeviceMemoryError)
