"""The entry point: runs a verb, and turns whatever it raises into one line and an exit code.

0 done, 1 failed, 2 wrong usage; 130 interrupted, 141 the reader of our output went away.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from megacontext.cli.app import Settings, make_app
from megacontext.cli.visible import visible_text
from megacontext.errors import MegaContextError

__all__ = ["main", "run"]

INTERRUPTED = 130
BROKEN_PIPE = 141
# typer's own wrong-usage errors, whichever library they come from in its version
CLICK_ERROR: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    settings = Settings()
    try:
        code = typer.main.get_command(make_app()).main(
            args=list(arguments), prog_name="megacontext", standalone_mode=False, obj=settings
        )
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 (whatever it is, the user gets one line)
        return _report(error, settings)
    return code if isinstance(code, int) else 0


def _report(error: BaseException, settings: Settings) -> int:
    """Say what went wrong in one line; the exit code."""
    if isinstance(error, BrokenPipeError) or _is_of_a_broken_pipe(error):
        # nobody reads any more; keep the interpreter from complaining when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        sys.stderr.write("\n")
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if settings.debug:
        traceback.print_exception(error)
    if isinstance(error, CLICK_ERROR):
        return _say(f"{_one_line(error.format_message())} ({_help_hint(error)})", 2)
    if isinstance(error, MegaContextError):
        return _say(_one_line(str(error)), error.exit_code)
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return _say(f"the system says: {error.strerror}{place}; remove the cause and try again", 1)
    name = type(error).__name__
    return _say(f"unexpected {name}: {_one_line(str(error))}; run again with `megacontext --debug` and report it", 1)


def _is_of_a_broken_pipe(error: BaseException) -> bool:
    """typer turns a BrokenPipeError of a verb into SystemExit(1)."""
    return isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"megacontext: {visible_text(message)}\n")
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _help_hint(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'megacontext'} --help"
