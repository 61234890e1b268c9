"""How a session looks at its memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from megacontext.errors import BudgetError, InvalidValueError, UnknownNameError
from megacontext.ports.focus import Allocator, Lens
from megacontext.runtime.focusing import Hysteresis
from megacontext.runtime.window import PositionMode

__all__ = ["KV_MODES", "SessionConfig"]

KV_MODES = ("exact",)


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Everything that a session can be told when it starts; a lens or allocator may be given as an object as well."""

    budget_entries: int = 1024  # window positions of all that the model sees: history, question and answer
    lens: str | Lens = "auto"
    allocator: str | Allocator = "greedy"
    kv: str = "exact"  # a refocus recomputes from the earliest edit
    positions: PositionMode = "window"  # or "global": true token positions, for bases made for them
    refocus_interval: int = 32  # generated tokens between refocuses; 0 keeps the focus that the question found
    sink_tokens: int = 4  # first tokens of the history that stay raw
    recent_tokens: int = 64  # last tokens of the history that stay raw
    gist_value: float = 0.2  # what a gist is worth of its tokens, per level
    hysteresis: Hysteresis = field(  # how much a refocus may disturb an answer in progress
        default_factory=lambda: Hysteresis(max_edits=16, cooldown=1, swap_margin=0.1)
    )
    seed: int | None = None  # of sampling, where a call gives none

    def __post_init__(self) -> None:
        if self.kv not in KV_MODES:
            raise UnknownNameError.of("kv", self.kv, list(KV_MODES))
        if self.refocus_interval < 0:
            raise InvalidValueError(f"refocus_interval is {self.refocus_interval}; choose 0 (never) or more tokens")
        if self.budget_entries < 1:
            raise BudgetError(f"budget_entries is {self.budget_entries}; a window has at least 1 entry, 1024 is usual")
