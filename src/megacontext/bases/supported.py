"""The table of models that are known to serve, made of what is shipped of each: the command line prints it, the docs
include it, and a test keeps the two alike."""

from __future__ import annotations

from megacontext.bases.profiles import BaseProfile, published_profiles
from megacontext.units import format_bytes

__all__ = ["COLUMNS", "NUMBER_COLUMNS", "markdown_table", "row_of", "rows"]

COLUMNS = ("family", "checkpoint", "billions", "window", "KV an entry", "cache", "what is special")
NUMBER_COLUMNS = ("billions", "window", "KV an entry")
# What the bytes of an entry are counted in: what these models are stored in, or half of it.
TABLE_DTYPE = "bfloat16"


def rows() -> list[tuple[str, ...]]:
    """One row per shipped config."""
    return [row_of(profile) for profile in published_profiles()]


def row_of(profile: BaseProfile) -> tuple[str, ...]:
    """Family, checkpoint, billions of parameters, longest window, bytes that a window keeps of an entry, how it follows
    a refocus, and what is special."""
    notes = [profile.traits.summary, profile.note]
    if not profile.is_verified:
        notes.append(f"not verified: {profile.why_not}")
    return (
        profile.family,
        profile.name,
        f"{profile.num_parameters / 1e9:.3g}",
        f"{profile.traits.longest_window:,}",
        format_bytes(profile.traits.kv_bytes_per_entry(TABLE_DTYPE)),
        profile.kv,
        "; ".join(filter(None, notes)),
    )


def markdown_table() -> str:
    """The same for a page."""
    edges = ["---:" if name in NUMBER_COLUMNS else "---" for name in COLUMNS]
    lines = [COLUMNS, edges, *rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
