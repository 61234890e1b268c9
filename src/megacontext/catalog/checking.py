"""Finding damage in a catalog."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from megacontext.ports.catalog import Damage, MemoryInfo

__all__ = ["check_catalog"]


def check_catalog(connection: sqlite3.Connection, path: Path, info: MemoryInfo) -> Iterator[Damage]:
    for (message,) in connection.execute("PRAGMA integrity_check"):
        if message != "ok":
            yield Damage(object_name=path.name, token_start=0, token_stop=0, problem=message)
