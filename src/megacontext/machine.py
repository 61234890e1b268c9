"""What the machine has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_bytes", "memory_bytes"]


def memory_bytes() -> int:
    """Memory of the machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def available_bytes() -> int:
    """Memory that programs may still take without anything being swapped out; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return 0
