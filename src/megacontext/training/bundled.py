"""Configurations that come with the package, by name; in a checkout they are those of ``recipes/core``."""

from __future__ import annotations

from pathlib import Path

from megacontext.errors import InvalidValueError

__all__ = ["BUNDLED", "config_path"]

BUNDLED = (
    "base",
    "base_m",
    "base_l",
    "memory",
    "memory_further",
    "memory_settle",
    "memory_last",
    "memory_more",
    "memory_lens",
    "memory_m",
    "memory_l",
)
FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parents[3] / "recipes" / "core")


def config_path(given: Path) -> Path:
    """The file that is meant: itself, or the bundled one of that name.

    Raises InvalidValueError if it is neither.
    """
    if given.is_file():
        return given
    if str(given) in BUNDLED:
        for folder in FOLDERS:
            if (folder / f"{given}.toml").is_file():
                return folder / f"{given}.toml"
    raise InvalidValueError(f"{given} is no file; give a configuration, or the name of one: {', '.join(BUNDLED)}")
