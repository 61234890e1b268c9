"""Bases of other people: what installed packages bring through the entry points ``megacontext.bases``.

An entry point is named like the ``model_type`` of the folders that it reads, or like the scheme of the addresses that
it opens (``NAME:...``). What it names, a module or any object, has ``load_folder`` for the first, ``open_address`` for
the second, or both. Entry points are looked at only for what is not known here, and imported only to be used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from megacontext.errors import BaseModelError, MegaContextError
from megacontext.ports.base import Base, BaseInfo, BaseSource
from megacontext.ports.text import TextCodec
from megacontext.values import reason_of, shown

__all__ = [
    "ENTRY_POINTS",
    "SupportsAddresses",
    "SupportsFolders",
    "is_brought",
    "known_plugins",
    "load_brought",
    "open_brought",
]

ENTRY_POINTS = "megacontext.bases"
# Two letters at least: one is a drive on Windows.
ADDRESS = re.compile(r"([a-z][a-z0-9_+.-]+):(.+)")


@runtime_checkable
class SupportsFolders(Protocol):
    """Reads folders of a ``model_type``: config.json, tokenizer.json, and an embedding table in safetensors."""

    def load_folder(self, folder: Path, codec: TextCodec, info: BaseInfo, *, stored: str) -> Base:
        """The model of a folder whose config.json says that weights are ``stored`` (as float32, bfloat16, ...).

        info: facts from the files; its dtype and device are as the user asked (auto among them), those of the base's
        own info are what they became.
        """
        ...


@runtime_checkable
class SupportsAddresses(Protocol):
    """Opens addresses of a scheme."""

    def open_address(self, rest: str, *, dtype: str, device: str) -> BaseSource:
        """The base at ``NAME:rest``."""
        ...


def known_plugins() -> list[str]:
    """Names that installed packages bring."""
    return sorted(entry_points(group=ENTRY_POINTS).names)


def is_brought(model_type: object) -> bool:
    """Whether an installed package reads folders of this ``model_type``. Nothing is imported."""
    return isinstance(model_type, str) and bool(entry_points(group=ENTRY_POINTS, name=model_type))


def load_brought(folder: Path, codec: TextCodec, info: BaseInfo, *, stored: str, model_type: str) -> Base:
    """The base of a folder by the package that reads its ``model_type``; BaseModelError for one that fails."""
    entry = _only(model_type)
    part = _imported(entry)
    if not isinstance(part, SupportsFolders):
        raise BaseModelError(f"{_named(entry)} has no load_folder, which reads folders; update or uninstall it")
    with _failing(entry, f"cannot read {folder}"):
        base = part.load_folder(folder, codec, info, stored=stored)
    if not isinstance(base, Base):
        raise BaseModelError(f"{_named(entry)} gave {shown(base)}, not a Base; update or uninstall it")
    return base


def open_brought(name: str, *, dtype: str, device: str) -> BaseSource | None:
    """The base at an address whose scheme an installed package opens; None for any other name."""
    address = ADDRESS.fullmatch(name)
    if address is None or not is_brought(address[1]):
        return None
    entry = _only(address[1])
    part = _imported(entry)
    if not isinstance(part, SupportsAddresses):
        return None
    with _failing(entry, f"cannot open {name}"):
        return part.open_address(address[2], dtype=dtype, device=device)


def _only(name: str) -> EntryPoint:
    found = list(entry_points(group=ENTRY_POINTS, name=name))
    if len({entry.value for entry in found}) > 1:
        owners = " and ".join(sorted(_owner(entry) for entry in found))
        raise BaseModelError(f"bases of {name} are brought by {owners}; uninstall all but one of them")
    return found[0]


def _imported(entry: EntryPoint) -> Any:
    with _failing(entry, "cannot be imported"):
        return entry.load()


@contextmanager
def _failing(entry: EntryPoint, doing: str) -> Iterator[None]:
    """What other people's code raises, in one line; our own errors as they are."""
    try:
        yield
    except MegaContextError:
        raise
    except Exception as error:
        raise BaseModelError(
            f"{_named(entry)} {doing} ({type(error).__name__}: {reason_of(error)}); update or uninstall it"
        ) from error


def _named(entry: EntryPoint) -> str:
    return f"{_owner(entry)}, which brings bases of {entry.name},"


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module
