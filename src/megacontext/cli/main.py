"""The entry point: runs a verb, and turns whatever it raises into one line and an exit code.

0 done, 1 failed, 2 wrong usage; 130 interrupted, 141 the reader of our output went away, 143 ended (SIGTERM).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from megacontext.cli.app import Settings, make_app
from megacontext.cli.failures import INTERRUPTED, failure_line, one_line
from megacontext.cli.visible import visible_text
from megacontext.errors import MegaContextError

__all__ = ["main", "run"]

BROKEN_PIPE = 141
# typer's own wrong-usage errors, whichever library they come from in its version
CLICK_ERROR: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: what is done counts, not what is said of it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for as long as we run
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run(sys.argv[1:]))


def _end(number: int, frame: FrameType | None) -> None:
    """Leave as after an error, so that what is half written is removed."""
    raise SystemExit(128 + number)


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
        return _say(f"{one_line(error.format_message())} ({_help_hint(error)})", 2)
    line = failure_line(error)
    if line is not None:
        return _say(line, error.exit_code if isinstance(error, MegaContextError) else 1)
    name = type(error).__name__
    return _say(f"unexpected {name}: {one_line(str(error))}; run again with `megacontext --debug` and report it", 1)


def _is_of_a_broken_pipe(error: BaseException) -> bool:
    """typer turns a BrokenPipeError of a verb into SystemExit(1)."""
    return isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"megacontext: {visible_text(message)}\n")
    return code


def _help_hint(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'megacontext'} --help"
