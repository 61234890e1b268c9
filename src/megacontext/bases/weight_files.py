"""Whether a core's files are those that its configuration names; known without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from megacontext.bases.embedding_table import read_header
from megacontext.errors import BaseModelError

__all__ = ["check_tensors", "check_there", "check_weights", "file_digest"]

DTYPES = ("BF16", "F16", "F32")


def file_digest(file: Path) -> str:
    """The sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_there(file: Path) -> None:
    """BaseModelError unless there is such a file."""
    if not file.is_file():
        raise BaseModelError(f"{file}: is missing; copy the folder again")


def check_weights(file: Path, digest: object) -> None:
    """BaseModelError unless the file is there and has this sha256."""
    check_there(file)
    if file_digest(file) != digest:
        raise BaseModelError(f"{file}: is not the file that config.json names (its sha256 differs); copy it again")


def check_tensors(file: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """BaseModelError unless the file holds these tensors, of these shapes, and no others."""
    found, _ = read_header(file)
    for name, shape in wanted.items():
        if name not in found:
            raise BaseModelError(f"{file}: lacks the tensor {name}; use weights of this shape")
        if tuple(found[name]["shape"]) != shape:
            raise BaseModelError(
                f"{file}: {name} has shape {tuple(found[name]['shape'])}, but config.json says {shape}; use weights of "
                "this shape"
            )
        if found[name]["dtype"] not in DTYPES:
            raise BaseModelError(f"{file}: {name} is stored as {found[name]['dtype']}; use one of {', '.join(DTYPES)}")
    surplus = sorted(found.keys() - wanted.keys())
    if surplus:
        raise BaseModelError(
            f"{file}: has a tensor that the net does not know: {surplus[0]}; use weights of this shape"
        )
