"""MegaContext: virtual memory for language models.

``import megacontext as mc`` is light: torch is imported when a memory first needs its base model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megacontext.errors import MegaContextError
from megacontext.runtime.events import DoneEvent, RefocusEvent, TokenEvent, WarningEvent

if TYPE_CHECKING:
    from megacontext.runtime.assembly import open  # noqa: A004
    from megacontext.runtime.generation import together

__all__ = [
    "DoneEvent",
    "MegaContextError",
    "RefocusEvent",
    "TokenEvent",
    "WarningEvent",
    "__version__",
    "open",
    "together",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "open":
        from megacontext.runtime.assembly import open  # noqa: A004

        return open
    if name == "together":
        from megacontext.runtime.generation import together

        return together
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
