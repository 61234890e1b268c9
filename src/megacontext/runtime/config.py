"""How a session looks at its memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from megacontext.errors import BudgetError
from megacontext.ports.base import BaseSource
from megacontext.ports.focus import Allocator, Lens
from megacontext.runtime.focusing import Hysteresis
from megacontext.runtime.patching import Patching
from megacontext.runtime.placement import POSITION_MODES, PositionMode
from megacontext.values import choice, number, whole_number
from megacontext.values import seed as valid_seed

__all__ = ["KV_MODES", "SessionConfig", "SessionDefaults", "window_budget"]

KV_MODES = ("auto", "exact", "patch")


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Everything that a session can be told when it starts; a lens or allocator may be given as an object as well."""

    budget_entries: int = 1024  # window positions of all that the model sees: history, question and answer
    lens: str | Lens = "auto"
    allocator: str | Allocator = "greedy"
    kv: str | Patching = "auto"  # "patch": a refocus runs its edits; "exact": all from the earliest edit on
    positions: PositionMode = (
        "auto"  # how rows are numbered: "window", "timeline", "global", or as the base was trained
    )
    refocus_interval: int = 32  # generated tokens between refocuses; 0 keeps the focus that the question found
    sink_tokens: int = 4  # first tokens of the history that stay raw
    recent_tokens: int = 64  # last tokens of the history that stay raw
    gist_value: float = 0.2  # what a gist is worth of its tokens, per level
    hysteresis: Hysteresis = field(  # how much a refocus may disturb an answer in progress
        default_factory=lambda: Hysteresis(max_edits=16, cooldown=1, swap_margin=0.1)
    )
    seed: int | None = None  # of sampling, where a call gives none

    def __post_init__(self) -> None:
        checked = {
            "budget_entries": window_budget(self.budget_entries),
            "kv": self.kv if isinstance(self.kv, Patching) else choice("kv", self.kv, KV_MODES),
            "positions": choice("positions", self.positions, POSITION_MODES),
            "refocus_interval": whole_number("refocus_interval", self.refocus_interval, of="tokens"),
            "sink_tokens": whole_number("sink_tokens", self.sink_tokens, of="tokens"),
            "recent_tokens": whole_number("recent_tokens", self.recent_tokens, of="tokens"),
            "gist_value": number("gist_value", self.gist_value, least=0, below=1),
            "seed": valid_seed(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class SessionDefaults:
    """What a session is told where nobody says otherwise: what suits the base, else what suits most."""

    budget_entries: int
    sink_tokens: int

    @classmethod
    def of(cls, base: BaseSource, *, budget_entries: int | None, sink_tokens: int | None) -> SessionDefaults:
        """The base is asked only for what is None."""
        if budget_entries is None:
            budget_entries = base.info.defaults.budget_entries or SessionConfig.budget_entries
        if sink_tokens is None:
            suited = base.info.defaults.sink_tokens
            sink_tokens = SessionConfig.sink_tokens if suited is None else suited
        return cls(budget_entries, sink_tokens)


def window_budget(budget_entries: int) -> int:
    """A budget that a window could have; BudgetError if none could."""
    return whole_number("budget_entries", budget_entries, least=1, of="entries", usual=1024, error=BudgetError)
