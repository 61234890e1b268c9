"""Whether a core's files are those that its configuration names; known without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from megacontext.errors import BaseModelError

__all__ = ["check_weights", "file_digest"]


def file_digest(file: Path) -> str:
    """The sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_weights(file: Path, digest: object) -> None:
    """BaseModelError unless the file is there and has this sha256."""
    if not file.is_file():
        raise BaseModelError(f"{file}: is missing; copy the folder again")
    if file_digest(file) != digest:
        raise BaseModelError(f"{file}: is not the file that config.json names (its sha256 differs); copy it again")
