"""The files that describe the arrays to any zarr reader: one for the group of all levels, one for each array.

Their content follows from the memory's settings, to the byte, and not from the release of a library that wrote them:
so that a flipped byte is found by comparison, and a lost file is written again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from megacontext.ports.arrays import ArraySpec, LayoutDamage
from megacontext.storage.faults import os_faults, tensorstore_fault
from megacontext.storage.patience import Patience

__all__ = ["ARRAYS_FOLDER", "DECLARED_ROWS", "ZarrLayout", "metadata_name", "zarr_metadata"]

ARRAYS_FOLDER = "arrays"
DECLARED_ROWS = 1 << 40
_METADATA = "zarr.json"
_GROUP = json.dumps({"zarr_format": 3, "node_type": "group"}).encode()
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKSUM = {"name": "crc32c"}
_COMPRESSION = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}

log = logging.getLogger(__name__)


def zarr_metadata(spec: ArraySpec) -> dict[str, Any]:
    """The zarr v3 metadata of an array: one shard per object, checksums on chunks and on the shard's index (which
    stands at the end, as zarr has it where nothing is said)."""
    compression = [_COMPRESSION] if spec.compress else []
    sharding = {
        "chunk_shape": [spec.chunk_rows, *spec.row_shape],
        "codecs": [_LITTLE_ENDIAN, *compression, _CHECKSUM],
        "index_codecs": [_LITTLE_ENDIAN, _CHECKSUM],
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [DECLARED_ROWS, *spec.row_shape],
        "data_type": spec.dtype,
        "fill_value": 0.0 if spec.dtype.startswith("float") else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [spec.shard_rows, *spec.row_shape]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def metadata_name(array: str) -> str:
    """The file that describes an array, relative to the memory; that of the group for ``array`` ''."""
    return "/".join(part for part in (ARRAYS_FOLDER, array, _METADATA) if part)


class ZarrLayout:
    """Compares these files with what they must be, and writes them.

    open_kvstore: opens the folder of all arrays; folder: of the memory, if it is a local one: there plain reads serve,
    because every write of a shard looks at these files; patience: how long reads of another may take.
    """

    def __init__(self, open_kvstore: Callable[[], Any], folder: Path | None, patience: Patience) -> None:
        self._open = open_kvstore
        self._folder = folder
        self._patience = patience

    def damages(self, specs: Sequence[ArraySpec]) -> list[LayoutDamage]:
        """Those that are missing or not as they must be; without any array there may be no group either."""
        found = []
        for array, wanted in _contents(specs):
            content = self._read(array)
            if content == wanted or (content is None and not specs):
                continue
            problem = "is missing" if content is None else "is not what the settings of the memory give"
            found.append(LayoutDamage(object_name=metadata_name(array), array=array, problem=problem))
        return found

    def mend(self, specs: Sequence[ArraySpec]) -> None:
        """Write what is missing or altered."""
        for array, wanted in _contents(specs):
            content = self._read(array)
            if content == wanted:
                continue
            if content is not None:
                log.warning("%s is damaged and is written anew", metadata_name(array))
            name = metadata_name(array)
            try:
                self._open().write(_key(array), wanted).result()
            except (ValueError, OSError) as error:
                raise tensorstore_fault(error, doing=f"writing {name}", object_name=name) from error

    def _read(self, array: str) -> bytes | None:
        name = metadata_name(array)
        if self._folder is not None:
            with os_faults(f"reading {name}", name), suppress(FileNotFoundError, NotADirectoryError):
                return (self._folder / name).read_bytes()
            return None
        try:
            read = self._patience.wait(self._open().read(_key(array)), self._patience.end())
        except (ValueError, OSError) as error:
            raise tensorstore_fault(error, doing=f"reading {name}", object_name=name) from error
        return bytes(read.value) if read.state == "value" else None


def _contents(specs: Sequence[ArraySpec]) -> Iterator[tuple[str, bytes]]:
    """(array, content of the file that describes it), the group first."""
    yield "", _GROUP
    for spec in specs:
        yield spec.name, json.dumps(zarr_metadata(spec), sort_keys=True, separators=(",", ":")).encode()


def _key(array: str) -> str:
    return f"{array}/{_METADATA}" if array else _METADATA
