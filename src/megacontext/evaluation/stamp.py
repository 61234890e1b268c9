"""Where and when a figure was measured: without it a figure cannot be compared with the next one."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from megacontext.machine import memory_bytes

__all__ = ["stamp"]

MATRIX_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PARTS = ("megacontext", "torch", "transformers", "tensorstore", "sqlalchemy", "numpy")


def stamp() -> dict[str, object]:
    """Date (UTC), machine, commit and versions of this run, ready for JSON."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "matrix_units": _matrix_units(),
            "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": memory_bytes(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "python": platform.python_version(),
        "versions": {name: found for name in PARTS if (found := _version(name))},
    }


def _commit() -> str:
    """The commit of the checkout that this code runs from, with ``+`` if tracked files differ; '' outside of one."""
    here = Path(__file__).resolve().parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],  # noqa: S607
            cwd=here,
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    """The name that the operating system gives the processor."""
    return _told_of_processor("model name") or platform.processor()


def _matrix_units() -> str:
    """Those of the processor's features that decide how fast it multiplies; names alone do not tell its generation."""
    found = _told_of_processor("flags").split()
    return " ".join(unit for unit in MATRIX_UNITS if unit in found)


def _told_of_processor(what: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
