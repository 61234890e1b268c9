"""What a cut is worth for given scores, and what an allocator's settings may be."""

from __future__ import annotations

from megacontext.errors import InvalidValueError
from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import AllocatorConfig
from megacontext.tree.cuts import Cut

__all__ = ["check_config", "cut_value"]


def cut_value(cut: Cut, field: UtilityField, gist_value: float) -> float:
    """The sum over all tokens of utility times ``gist_value ** level shown`` (see ``ports.focus``)."""
    return float((field.over(cut.starts, cut.stops) * gist_value**cut.levels).sum())


def check_config(config: AllocatorConfig) -> None:
    """Raise InvalidValueError for settings outside their limits."""
    if not 0 <= config.gist_value < 1:
        raise InvalidValueError(
            f"gist_value is {config.gist_value}; choose 0 <= gist_value < 1, a gist's share of worth"
        )
    for name in ("budget_entries", "max_edits", "cooldown", "swap_margin", "edit_cost"):
        value = getattr(config, name)
        if not 0 <= value < float("inf"):
            raise InvalidValueError(f"{name} is {value}; it must be finite and >= 0")
