"""Which source a person means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.cli.screen import shorten_uri
from megacontext.errors import InvalidValueError

if TYPE_CHECKING:
    from megacontext.runtime.opened import OpenedMemory

__all__ = ["find_uri"]


def find_uri(memory: OpenedMemory, name: str) -> str:
    """The uri of the source with this uri, path or id, or of the one that `megacontext sources` shows so.

    A name that nothing has is given back as it is. Raises: InvalidValueError if several sources have it.
    """
    sources = memory.sources()
    if "://" in name and any(source.uri == name for source in sources):
        return name
    wanted = {name, Path(os.path.abspath(name)).as_uri()}  # noqa: PTH100  links stay, as they do when a file is ingested
    found = {
        source.uri: source.source_id
        for source in sources
        if source.uri in wanted or name in {str(source.source_id), shorten_uri(source.uri)}
    }
    if len(found) > 1:
        several = " or ".join(f"{uri} (id {source_id})" for uri, source_id in found.items())
        raise InvalidValueError(f"{name!r} may be {several}; name it by the uri, or by an id that is no name")
    return next(iter(found), name)
