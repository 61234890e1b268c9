"""``megacontext focus``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from megacontext.cli.focus_picture import print_picture
from megacontext.cli.opening import open_for_questions
from megacontext.cli.options import (
    AllocatorOption,
    JsonOption,
    LensOption,
    MemoryArgument,
    Span,
    SuitedBudgetOption,
    parse_span,
)
from megacontext.cli.screen import error_console, output_console, print_json
from megacontext.cli.visible import visible_line

if TYPE_CHECKING:
    from megacontext.focus.working_context import WorkingContext
    from megacontext.runtime.events import RefocusReport

__all__ = ["focus"]


def focus(
    memory: MemoryArgument,
    show: Annotated[bool, typer.Option("--show", help="List every entry, not only the picture.")] = False,
    query: Annotated[
        str | None, typer.Option("--query", metavar="TEXT", help="Refocus on a question first.", show_default=False)
    ] = None,
    reveal: Annotated[
        list[Span] | None,
        typer.Option(
            "--reveal", metavar="A:B", parser=parse_span, help="Open tokens A to B; repeatable.", show_default=False
        ),
    ] = None,
    pin: Annotated[
        list[Span] | None,
        typer.Option(
            "--pin", metavar="A:B", parser=parse_span, help="Open tokens A to B and keep them.", show_default=False
        ),
    ] = None,
    unpin: Annotated[
        list[Span] | None,
        typer.Option(
            "--unpin", metavar="A:B", parser=parse_span, help="Undo a pin of the same call.", show_default=False
        ),
    ] = None,
    budget: SuitedBudgetOption = None,
    lens: LensOption = "auto",
    allocator: AllocatorOption = "greedy",
    json: JsonOption = False,
) -> None:
    """Look at the working context and steer it: what a question would see, and in which detail.

    Pins and reveals hold for the window that this call shows: sessions belong to a process, not to the memory.
    """
    from megacontext.runtime.config import SessionDefaults

    with open_for_questions(memory) as opened:
        budget = SessionDefaults.of(opened.base, budget_entries=budget, sink_tokens=None).budget_entries
        session = opened.session(budget_entries=budget, lens=lens, allocator=allocator)
        for span in pin or []:
            session.pin(*span)
        for span in unpin or []:
            session.unpin(*span)
        report = session.refocus(query) if query is not None else None
        for span in reveal or []:
            session.reveal(*span)
        wc = session.working_context
    if json:
        print_json(_as_json(wc, report, budget))
        return
    out = output_console()
    if report is not None:
        out.print(
            f"expanded {report.num_expanded:,}, collapsed {report.num_collapsed:,} in {report.latency_ms:.0f} ms",
            style="dim",
        )
        for warning in report.warnings:
            error_console().print(f"megacontext: {visible_line(warning)}", style="yellow", markup=False, soft_wrap=True)
    print_picture(out, wc, budget_entries=budget, list_entries=show)


def _as_json(wc: WorkingContext, report: RefocusReport | None, budget: int) -> dict[str, object]:
    return {
        "num_tokens": wc.num_tokens,
        "budget_entries": budget,
        "cost": wc.cost,
        "num_entries": wc.num_entries,
        "refocus": report,
        "entries": [
            {"level": level, "start": start, "stop": stop, "pinned": pinned}
            for (level, start, stop), pinned in zip(wc.cut.rows(), wc.pinned.tolist(), strict=True)
        ],
    }
