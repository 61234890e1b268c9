"""What the library logs, on standard error: everything with ``--debug``, else what users cannot see otherwise."""

from __future__ import annotations

import logging

from megacontext.bases.quantization import quiet_quantization
from megacontext.cli.screen import error_console
from megacontext.cli.visible import visible_line

__all__ = ["show_log"]

# Losses in data at rest, a generation that is gone, and a model's own way to be asked that does not serve.
UNSEEN = (
    "megacontext.catalog",
    "megacontext.storage",
    "megacontext.memory.erase",
    "megacontext.runtime.relatives",
    "megacontext.bases.prompting",
)
MEASURING = {"score", "eval", "demo"}  # verbs that say nothing of a window that shows less than it should
DEGRADED = "megacontext.runtime.engine"


class _Unseen(logging.Handler):
    """One line for each warning of those, once. Of the rest, verbs say themselves what users need."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(logging.WARNING)
        self._names = names
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.name.startswith(self._names) and line not in self._said:
            self._said.add(line)
            error_console().print(f"megacontext: {visible_line(line)}", style="yellow", markup=False, soft_wrap=True)


def show_log(*, debug: bool, verb: str | None) -> None:
    """Everything to whoever debugs, what is unseen to all others, and nothing beside ``check``, which lists losses
    itself; what packages say of themselves to nobody."""
    quiet_quantization()
    names = (*UNSEEN, DEGRADED) if verb in MEASURING else UNSEEN
    quiet = logging.NullHandler() if verb == "check" else _Unseen(names)
    logging.getLogger("megacontext").handlers = [logging.StreamHandler() if debug else quiet]
