"""``megacontext train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megacontext.cli.options import JsonOption
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.tables import print_table
from megacontext.units import format_bytes, format_count

if TYPE_CHECKING:
    from megacontext.training.dry_run import RunCost

__all__ = ["train"]

HOUR = 3600
EXPLAINED = (
    "Weights, masters, gradients and optimiser are counted. What the forward pass keeps, and time per step, are "
    "measured on this machine in {} steps of one thread on made-up tokens; so is peak, the most that the process held "
    "on top of its libraries, scratch included. Drawing rows takes time of its own. A run is num_steps such steps, "
    "micro_batches times as many, every gate opening at its min_steps."
)
DISTURBED = (
    "Other programs kept the processor busy meanwhile: on an idle machine expect the hours and seconds under busy."
)


def train(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG...",
            help=(
                "Configuration: a file, or base, base_m, base_l, memory, memory_further, memory_settle, "
                "memory_last, memory_more, memory_lens, memory_m, memory_l; several for --dry-run."
            ),
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Text: books/ and knowledge/.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Token arrays, checkpoint and log go here.", show_default=False),
    ] = None,
    packages: Annotated[
        list[Path] | None,
        typer.Option(
            "--packages",
            metavar="FOLDER",
            help="site-packages to read code from; repeat for more. This environment's by default.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            metavar="PATH",
            help="Go on from a checkpoint or a model, a folder or a bundled name: its core, GistNet and lens.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", metavar="N", help="End after N minutes; rates then follow the clock.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", help="Of first weights and batches, instead of the file's.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track", metavar="NAME", help="Log to wandb or mlflow, too; repeat for more.", show_default=False
        ),
    ] = None,
    eager: Annotated[bool, typer.Option("--eager", help="Do not compile: starts at once, steps are slower.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print weights, memory and time of each CONFIG; needs no data.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a core, or a core and its memory, as a configuration file says (recipes/core/)."""
    if dry_run:
        if device not in ("auto", "cpu"):
            raise typer.BadParameter(f"--device is {device}, but a dry run measures on the CPU; leave it out")
        given = {"--minutes": minutes, "--start": start, "--resume": resume or None, "--seed": seed, "--track": track}
        if unread := [name for name, value in given.items() if value is not None]:
            raise typer.BadParameter(f"{unread[0]} changes nothing of a dry run, which is of all steps; leave it out")
        _print_costs(configs, eager=eager, json=json)
        return
    if len(configs) > 1:
        raise typer.BadParameter(f"{len(configs)} configurations are given; train one at a time, or add --dry-run")
    if data is None or out is None:
        raise typer.BadParameter(f"{'--data' if data is None else '--out'} is missing; training needs --data and --out")
    if resume and start is not None:
        raise typer.BadParameter(f"--start {start} changes nothing of a run that goes on with --resume; leave one out")
    from megacontext.training.bundled import config_path
    from megacontext.training.core_recipe import build_learner
    from megacontext.training.recipe import RunArguments, installed_packages
    from megacontext.training.recipe import train as run

    arguments = RunArguments(
        config=config_path(configs[0]),
        data=data,
        out=out,
        packages=tuple(packages or [installed_packages()]),
        minutes=minutes,
        resume=resume,
        seed=seed,
        track=tuple(track or []),
        device=device,
    )
    state = run(arguments, lambda settings, seed: build_learner(settings, seed, start=start, compiled=not eager))
    checkpoint = out / "checkpoint.pt"
    if json:
        print_json({"checkpoint": str(checkpoint), "state": state})
    else:
        output_console().print(
            f"step {state.step:,}, {format_count(state.tokens)} tokens, {state.seconds / 60:.1f} minutes: {checkpoint}",
            markup=False,
            soft_wrap=True,
        )


def _print_costs(configs: list[Path], *, eager: bool, json: bool) -> None:
    import torch

    from megacontext.training.bundled import config_path
    from megacontext.training.core_recipe import build_learner
    from megacontext.training.dry_run import run_cost
    from megacontext.training.plan import Plan
    from megacontext.training.settings import read_settings

    torch.set_num_threads(1)  # as training does
    # all of them are read before any takes its time
    settings = {str(given): read_settings(config_path(given)) for given in configs}
    for one in settings.values():
        Plan.read(one)
    costs: dict[str, RunCost] = {}
    with error_console().status("[dim]building[/dim]", spinner="dots") as status:
        for given, one in settings.items():
            costs[given] = run_cost(
                one,
                lambda settings, seed: build_learner(settings, seed, compiled=not eager),
                tell=lambda line: status.update(f"[dim]{line}[/dim]"),
            )
    if json:
        sums = {
            path: {"kept_bytes": cost.kept_bytes, "total_bytes": cost.total_bytes, "peak_bytes": cost.peak_bytes}
            for path, cost in costs.items()
        }
        print_json({path: {"cost": cost, **sums[path]} for path, cost in costs.items()})
        return
    _print_table(costs)
    _print_batches(costs)
    out = output_console()
    out.print(f"\n{EXPLAINED.format('eager' if eager else 'compiled')}", style="dim")
    if any(cost.is_disturbed for cost in costs.values()):
        out.print(DISTURBED, style="dim")


def _print_table(costs: dict[str, RunCost]) -> None:
    parts = list(dict.fromkeys(part for cost in costs.values() for part in cost.weights))
    memory = ["weights", "masters", "gradients", "optimiser", "kept", "together", "peak"]
    rows = [
        [
            path,
            *(format_count(cost.weights[part]) if part in cost.weights else "-" for part in parts),
            *(
                format_bytes(size)
                for size in (
                    cost.weight_bytes,
                    cost.master_bytes,
                    cost.gradient_bytes,
                    cost.optimizer_bytes,
                    cost.kept_bytes,
                    cost.total_bytes,
                )
            ),
            "-" if cost.peak_bytes is None else format_bytes(cost.peak_bytes),
            f"{cost.num_steps:,}",
            format_count(cost.run_tokens),
            f"{cost.run_seconds / HOUR:,.1f}",
            f"{cost.run_busy_seconds / HOUR:,.1f}",
        ]
        for path, cost in costs.items()
    ]
    columns = ["config", *parts, *memory, "steps", "tokens", "hours", "busy"]
    print_table(output_console(), columns, rows, right=columns[1:])


def _print_batches(costs: dict[str, RunCost]) -> None:
    output_console().print()
    rows = [
        [
            path,
            f"{batch.name}{', gists' if batch.shows_gists else ''}",
            f"{batch.rows} x {batch.length:,}",
            format_bytes(batch.kept_bytes),
            f"{batch.seconds:.2f}",
            f"{batch.busy_seconds:.2f}",
            f"{batch.rows * batch.length / batch.seconds:,.0f}",
        ]
        for path, cost in costs.items()
        for batch in cost.batches
    ]
    columns = ["config", "batch", "tokens of a step", "kept", "seconds", "busy", "tokens/s"]
    print_table(output_console(), columns, rows, right=columns[2:])
