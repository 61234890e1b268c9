"""Colours of levels of detail, the same in the picture and on the page: the finer, the brighter."""

from __future__ import annotations

__all__ = ["BACKGROUND", "DIM", "FAINT", "LEVEL_COLORS", "PANEL", "TEXT", "level_color", "level_name"]

BACKGROUND = "#0d1017"
PANEL = "#141926"
TEXT = "#f2efe6"
DIM = "#8b93a7"
FAINT = "#333b4d"
LEVEL_COLORS = ("#ffd166", "#f0803c", "#b83b5e", "#5b2a70", "#262252", "#191a38")


def level_color(level: int) -> str:
    """``#rrggbb``; all levels beyond the last colour share it."""
    return LEVEL_COLORS[min(level, len(LEVEL_COLORS) - 1)]


def level_name(level: int) -> str:
    return "tokens" if level == 0 else f"gists {level}"
