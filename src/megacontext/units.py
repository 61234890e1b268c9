"""Units that stand in names (``cache_bytes``, ``latency_ms``) and how people read them."""

from __future__ import annotations

__all__ = ["GIB", "KIB", "MIB", "format_bytes", "format_count"]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def format_bytes(num_bytes: float) -> str:
    """``1536`` -> ``'1.5 KiB'``."""
    for name, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {name}"
    return f"{num_bytes:.0f} B"


def format_count(count: float) -> str:
    """``1_234_567`` -> ``'1.23 M'``; decimal steps, as token counts are spoken."""
    for name, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:g}"
