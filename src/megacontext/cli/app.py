"""The list of verbs. Each lives in its own module and imports what it needs when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

import megacontext
from megacontext.cli import (
    ask,
    bases,
    chat,
    check,
    complete,
    demo,
    erase,
    evaluate,
    focus,
    ingest,
    init,
    inspect,
    port,
    regist,
    score,
    search,
    sources,
    train,
    transfer,
)
from megacontext.cli.log import show_log

__all__ = ["Settings", "make_app"]


@dataclass
class Settings:
    """What holds for the whole run. debug: show tracebacks."""

    debug: bool = False


def make_app() -> typer.Typer:
    """The command line, with verbs in the order in which people meet them."""
    app = typer.Typer(
        name="megacontext",
        help="Virtual memory for language models: an unbounded memory on disk, a small working context in the window.",
        epilog="A first round: megacontext init notes.mc && megacontext ingest notes.mc docs/ "
        '&& megacontext ask notes.mc "How does it work?"',
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_begin)
    app.command("init")(init.init)
    app.command("ingest")(ingest.ingest)
    app.command("ask")(ask.ask)
    app.command("chat")(chat.chat)
    app.command("complete")(complete.complete)
    app.command("score")(score.score)
    app.command("focus")(focus.focus)
    app.command("search")(search.search)
    app.command("sources")(sources.sources)
    app.command("provenance")(sources.provenance)
    app.command("inspect")(inspect.inspect)
    app.command("check")(check.check)
    app.command("erase")(erase.erase)
    app.command("regist")(regist.regist)
    app.command("export")(transfer.export_memory)
    app.command("import")(transfer.import_memory)
    app.command("demo")(demo.demo)
    app.command("eval")(evaluate.evaluate)
    app.command("train")(train.train)
    app.command("bases")(bases.bases)
    app.command("port")(port.port)
    return app


def _begin(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    context.ensure_object(Settings).debug = debug
    show_log(debug=debug, verb=context.invoked_subcommand)
    if version:
        typer.echo(f"megacontext {megacontext.__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
