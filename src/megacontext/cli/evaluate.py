"""``megacontext eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megacontext.cli.options import JsonOption
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.tables import print_table
from megacontext.cli.visible import visible_line
from megacontext.values import shown

if TYPE_CHECKING:
    from megacontext.evaluation.results.writing import Report
    from megacontext.evaluation.runs.run import EvalConfig, EvalRun

__all__ = ["evaluate"]

MOST_DIGITS = 18  # Python reads no number of thousands of them


def parse_names(text: str) -> tuple[str, ...]:
    """``needle,distance``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_lengths(text: str) -> tuple[int, ...]:
    """``2048,8k,1M``."""
    lengths = []
    for name in parse_names(text):
        unit = {"k": 1 << 10, "M": 1 << 20}.get(name[-1], 1)
        digits = name[:-1] if unit > 1 else name
        if not digits.isdecimal() or len(digits) > MOST_DIGITS:
            raise typer.BadParameter(f"{shown(name)} is no length; write tokens, such as 2048, 8k or 1M")
        lengths.append(int(digits) * unit)
    return tuple(lengths)


def evaluate(
    base: Annotated[
        str, typer.Option("--base", metavar="BASE", help="reference, a model folder, or a Hugging Face id.")
    ] = "reference",
    task: Annotated[
        str, typer.Option("--task", metavar="NAME[,NAME]", help="What to measure; --list shows the names.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Where the data of tasks lies.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where records and report go.")] = Path(
        "eval-output"
    ),
    budget: Annotated[
        int, typer.Option("--budget", metavar="N", help="Entries in the window; 0 is 1024, 512 with --quick.")
    ] = 0,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Histories of each kind; 0 is what is usual.")
    ] = 0,
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="N[,N]", help="Of histories, in tokens, instead of the task's own.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of histories, questions and places.")] = 0,
    methods: Annotated[
        str, typer.Option("--methods", metavar="NAME[,NAME]", help="Rows of the table; --list shows the names.")
    ] = "",
    block_tokens: Annotated[
        int, typer.Option("--block-tokens", metavar="K", help="Shape of the memories: tokens of a block, 8 to 128.")
    ] = 32,
    gist_width: Annotated[
        int, typer.Option("--gist-width", metavar="R", help="Shape of the memories: vectors of a gist.")
    ] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Few and short histories: does it run?")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show tasks and methods.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure what memory is worth: every method at the same budget on the same histories, with controls.

    Writes every trial, one JSON document and one HTML report to the output folder.
    """
    from megacontext.evaluation.runs.run import EvalConfig

    if list_:
        _list(base, json=json)
        return
    if not task:
        raise typer.BadParameter("name what to measure with --task; --list shows the names")
    config = EvalConfig(
        base=base,
        tasks=parse_names(task),
        out=out,
        data=data,
        budget_entries=budget,
        num_samples=samples,
        lengths=parse_lengths(lengths),
        seed=seed,
        methods=parse_names(methods),
        is_quick=quick,
        resume=resume,
        block_tokens=block_tokens,
        gist_width=gist_width,
    )
    _run(config, json=json)


def _list(base: str, *, json: bool) -> None:
    from megacontext.bases.registry import BaseHandle
    from megacontext.evaluation.methods.contenders import every_row
    from megacontext.evaluation.tasks.registry import TASKS

    rows = every_row(BaseHandle(base).info).values()
    in_tasks = {row.name: [task.name for task in TASKS.values() if task.methods in kinds] for row, kinds in rows}
    if json:
        print_json(
            {
                "tasks": [
                    {
                        "name": task.name,
                        "summary": task.summary,
                        "source": task.source,
                        "needs": task.needs,
                        "reads": task.reads,
                    }
                    for task in TASKS.values()
                ],
                "methods": [
                    {
                        "name": row.name,
                        "label": row.label,
                        "kind": row.kind,
                        "missing": row.missing,
                        "tasks": in_tasks[row.name],
                    }
                    for row, _ in rows
                ],
            }
        )
        return
    out = output_console()
    print_table(
        out, ["task", "data", "measures"], [(t.name, ", ".join(t.needs) or "-", t.summary) for t in TASKS.values()]
    )
    out.print()
    print_table(
        out,
        ["method", "kind", "tasks", "what"],
        [
            (
                row.name,
                row.kind,
                _named(in_tasks[row.name], len(TASKS)),
                row.label + (f" ({base} {row.missing})" if row.missing else ""),
            )
            for row, _ in rows
        ],
    )


def _named(tasks: Sequence[str], num_tasks: int) -> str:
    """The tasks that have a row, in few words."""
    if len(tasks) == num_tasks:
        return "all"
    return ", ".join(tasks) if len(tasks) <= num_tasks // 2 else f"{len(tasks)} of {num_tasks}"


def _run(config: EvalConfig, *, json: bool) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from megacontext.bases.registry import BaseHandle
    from megacontext.evaluation.results.writing import write_report
    from megacontext.evaluation.runs.records import RUN
    from megacontext.evaluation.runs.run import evaluate as run_tasks
    from megacontext.gisters.gistnet import untaught_shape

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    console = error_console()
    shape = {"block_tokens": config.block_tokens, "gist_width": config.gist_width}
    if new := untaught_shape(BaseHandle(config.base).info, **shape):
        console.print(visible_line(new), style="yellow", markup=False, soft_wrap=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the base", total=None)

        def step(what: str, number: int, total: int) -> None:
            bar.update(task, description=what, completed=number, total=total)

        if config.resume and not (config.out / RUN).is_file():
            console.print(f"there is no run in {config.out} to go on with; one begins", markup=False, soft_wrap=True)
        try:
            run = run_tasks(config, on_step=step)
        except KeyboardInterrupt:
            console.print(
                f"interrupted; what is done is in {config.out}: go on with the same arguments and --resume",
                markup=False,
                soft_wrap=True,
            )
            raise
    report = write_report(run)
    if json:
        print_json(report.content)
        return
    _show(run, report)


def _show(run: EvalRun, report: Report) -> None:
    from megacontext.evaluation.results.screen import grids, notes

    out = output_console()
    for account in report.accounts:
        task, rows = account.task, run.rows_of(account.task)
        out.print(f"\n[bold]{task.name}[/bold]: {task.summary}")
        for grid in grids(account, rows):
            out.print(f"\n{grid.title}", style="dim")
            print_table(out, grid.header, grid.rows, right=grid.header[1:])
        for note in notes(account, rows):
            out.print(note, style="dim")
    out.print()
    for file in report.files:
        out.print(str(file), markup=False, soft_wrap=True)
