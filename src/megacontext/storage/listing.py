"""What lies in a folder or below a URL, object by object, past whoever reads and writes there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from megacontext.storage.faults import os_faults, tensorstore_fault
from megacontext.storage.patience import Patience

__all__ = ["delete_object", "file_sizes", "has_object", "sized_objects"]


def file_sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files below a folder and their bytes. What another process deletes meanwhile is none of them."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                yield path, path.stat().st_size


def sized_objects(
    folder: Path | None, open_kvstore: Callable[[], Any], below: str, patience: Patience
) -> list[tuple[str, int]]:
    """(name below ``below``, bytes) of all objects. folder: what ``below`` is in, if it is a local one."""
    if folder is not None:
        with os_faults(f"reading sizes of {below}"):
            return [(path.relative_to(folder / below).as_posix(), size) for path, size in file_sizes(folder / below)]
    try:
        kvstore = open_kvstore()
        keys = patience.wait(kvstore.list(), patience.end())
        return [(key.decode(), len(patience.wait(kvstore.read(key), patience.end()).value)) for key in keys]
    except (ValueError, OSError) as error:
        raise tensorstore_fault(error, doing="reading sizes", object_name=below) from error


def has_object(folder: Path | None, open_kvstore: Callable[[], Any], below: str, name: str, patience: Patience) -> bool:
    """Whether there is an object of this name."""
    if folder is not None:
        return (folder / below / name).exists()
    try:
        return bool(patience.wait(open_kvstore().read(name), patience.end()).state == "value")
    except (ValueError, OSError) as error:
        raise tensorstore_fault(error, doing=f"looking for {below}/{name}", object_name=f"{below}/{name}") from error


def delete_object(folder: Path | None, open_kvstore: Callable[[], Any], below: str, name: str) -> None:
    """Delete one of them; on a disk with the folders that are empty then."""
    doing = f"deleting {below}/{name}"
    if folder is not None:
        with os_faults(doing):
            (folder / below / name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for parent in Path(name).parents[:-1]:
                    (folder / below / parent).rmdir()
        return
    try:
        open_kvstore().write(name, None).result()
    except (ValueError, OSError) as error:
        raise tensorstore_fault(error, doing=doing, object_name=f"{below}/{name}") from error
