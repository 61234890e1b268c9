"""Which gists a window has room for: blocks at both of its ends are raw, and whole, so that small ones need less."""

from __future__ import annotations

from megacontext.errors import BaseModelError
from megacontext.evaluation.methods.focused import recent_room
from megacontext.focus.opening import cost_with_raw
from megacontext.focus.pins import Spans
from megacontext.ports.base import BaseInfo
from megacontext.tree.geometry import TreeGeometry

__all__ = ["LEAST_WINDOW", "check_room", "has_room"]

# The fewest positions with which half of them hold blocks of 16 with one gist, and what is scored (see ``Plan.of``).
LEAST_WINDOW = 128


def check_room(info: BaseInfo) -> None:
    """BaseModelError for a base whose windows are too small for gists to be compared in them."""
    if info.max_positions < LEAST_WINDOW:
        raise BaseModelError(
            f"{info.name}: was made for windows of {info.max_positions} entries, but gists are compared in windows of "
            f"at least {LEAST_WINDOW}: port a model that was made for longer ones"
        )


def has_room(
    window_entries: int,
    *,
    reserved_entries: int,
    history_tokens: int,
    sink_tokens: int,
    block_tokens: int,
    gist_width: int,
) -> bool:
    """Whether a window, beside what is reserved, shows such a history with its first and last tokens raw."""
    first_recent = max(0, history_tokens - recent_room(window_entries))
    raw = Spans.of([(0, sink_tokens), (first_recent, history_tokens)])
    cost = cost_with_raw(TreeGeometry(block_tokens), history_tokens, raw, gist_width)
    return cost + reserved_entries <= window_entries
