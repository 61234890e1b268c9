"""``megacontext port``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megacontext.cli.options import JsonOption
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.tables import print_table
from megacontext.cli.visible import visible_line

if TYPE_CHECKING:
    from megacontext.evaluation.porting.port import Ported

__all__ = ["port"]


def port(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A model folder, or a Hugging Face id.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where config and report go.")] = Path(
        "configs/bases"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: fewer trials and shapes, about a minute.")
    ] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Also write the config into the model's folder, as megacontext.toml.")
    ] = False,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="NAME", help="auto, bfloat16, float16, float32, int8 or int4.")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Try a model as a base: check it, measure what gists are worth to it, and choose the defaults that suit it.

    Writes a config and a one-page report. A model that fails a check gets the report alone, and exit code 1.
    """
    from megacontext.evaluation.porting.port import PortConfig
    from megacontext.evaluation.porting.port import port as port_base

    config = PortConfig(base=base, out=out, dtype=dtype, device=device, is_quick=quick, installs=install)
    ported = _with_progress(port_base, config)
    if json:
        print_json(_content(ported))
    else:
        _show(ported)
    if ported.failed:
        error_console().print(
            f"megacontext: {visible_line(ported.info.name)} cannot serve as it is: {', '.join(ported.failed)} failed; "
            f"see {ported.files[0]}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


def _with_progress(port_base: object, config: object) -> Ported:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = error_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("loading", total=None)
        said: list[str] = []

        def step(what: str, number: int, total: int) -> None:
            bar.update(shown, description=what, completed=number, total=total)
            if not console.is_terminal and what not in said:
                said.append(what)
                console.print(what, markup=False)

        return port_base(config, on_step=step)  # type: ignore[operator, no-any-return]


def _content(ported: Ported) -> dict[str, object]:
    measured = ported.measured
    return {
        "info": ported.info,
        "traits": ported.traits,
        "family": ported.family,
        "num_parameters": ported.num_parameters,
        "kv": ported.kv,
        "checks": ported.checks,
        "cost": ported.cost,
        "norms": ported.norms,
        "defaults": ported.choices.defaults if ported.choices else None,
        "reasons": ported.choices.reasons if ported.choices else None,
        "recency": measured.recency if measured else None,
        "full": measured.full if measured else None,
        "shapes": [{"shape": shape, "nats": nats} for shape, nats in measured.shapes.items()] if measured else None,
        "files": [str(file) for file in ported.files],
        **ported.stamp,
    }


def _show(ported: Ported) -> None:
    out = output_console()
    out.print(f"[bold]{visible_line(ported.info.name)}[/bold]: {ported.traits.summary}", soft_wrap=True)
    out.print()
    print_table(
        out,
        ["check", "result", "measured", "limit", "what"],
        [check.cells for check in ported.checks],
        right=["measured", "limit"],
    )
    if ported.choices is not None:
        out.print()
        for sentence in ported.choices.reasons.items():
            out.print(": ".join(sentence), markup=False)
    out.print()
    out.print(f"reads {ported.cost.prefill:,.0f} and writes {ported.cost.decode:,.1f} tokens a second", markup=False)
    for file in ported.files:
        out.print(str(file), markup=False, soft_wrap=True)
