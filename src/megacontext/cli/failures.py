"""What went wrong, in one line: the same for the command line and for the scripts of recipes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from megacontext.cli.visible import visible_text
from megacontext.errors import MegaContextError

__all__ = ["INTERRUPTED", "failure_line", "one_line", "run_script"]

INTERRUPTED = 130


def failure_line(error: BaseException) -> str | None:
    """The line that a user gets, or None for what is no failure of theirs or their system's but a bug."""
    if isinstance(error, MegaContextError):
        return one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"the system says: {error.strerror}{place}; remove the cause and try again"
    return None


def one_line(text: str) -> str:
    """Any text without line ends."""
    return " ".join(text.split())


def run_script(main: Callable[[], object]) -> None:
    """Run the ``main`` of a script: a failure is one line and exit code 1. A bug keeps its traceback, for whoever works
    on the script."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (MegaContextError, OSError) as error:
        line = failure_line(error)
        if line is None:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {visible_text(line)}")
