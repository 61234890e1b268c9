"""How much memory this process holds, and the most that it held since a moment, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

from megacontext.units import KIB

__all__ = ["forget_peak", "peak_bytes", "resident_bytes"]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET = "5"  # proc(5): resets the peak to what is held now


def forget_peak() -> bool:
    """Count the peak from now on; whether this system can."""
    try:
        CLEAR.write_text(FORGET)
    except OSError:
        return False
    return peak_bytes() is not None


def peak_bytes() -> int | None:
    """The most memory that was resident since `forget_peak`, None where nobody counts it."""
    return _read("VmHWM:")


def resident_bytes() -> int | None:
    """What is resident now, None where nobody counts it."""
    return _read("VmRSS:")


def _read(name: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(name)]
    return int(found[0][1]) * KIB if found else None
