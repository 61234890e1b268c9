"""What a cut is worth for given scores, and what an allocator's settings may be."""

from __future__ import annotations

from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import AllocatorConfig
from megacontext.tree.cuts import Cut
from megacontext.values import number, whole_number

__all__ = ["check_config", "cut_value"]


def cut_value(cut: Cut, field: UtilityField, gist_value: float) -> float:
    """The sum over all tokens of utility times ``gist_value ** level shown`` (see ``ports.focus``)."""
    return float((field.over(cut.starts, cut.stops) * gist_value**cut.levels).sum())


def check_config(config: AllocatorConfig) -> None:
    """Raise InvalidValueError for settings outside their limits."""
    number("gist_value", config.gist_value, least=0, below=1)
    for name in ("budget_entries", "max_edits", "cooldown"):
        whole_number(name, getattr(config, name))
    for name in ("swap_margin", "edit_cost"):
        number(name, getattr(config, name), least=0)
