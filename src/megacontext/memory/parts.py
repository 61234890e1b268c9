"""The parts that a memory is made of, as every module of this room receives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from megacontext.errors import BaseMismatchError
from megacontext.memory.siblings import NoSiblings, Siblings
from megacontext.ports.arrays import ArrayStore, BlobStore
from megacontext.ports.catalog import Catalog, MemoryInfo
from megacontext.ports.gister import Gister
from megacontext.ports.text import TextCodec
from megacontext.tree.geometry import TreeGeometry

__all__ = ["LazyGister", "Parts"]


class LazyGister:
    """Makes the gister when it is first needed, and refuses one that did not make this memory's gists."""

    def __init__(self, make: Callable[[], Gister], info: MemoryInfo) -> None:
        self._make = make
        self._info = info
        self._gister: Gister | None = None
        self._making = Lock()

    def __call__(self) -> Gister:
        """Raises: BaseMismatchError if name, version or shape differ from what the memory was made with."""
        with self._making:
            if self._gister is None:
                gister = self._make()
                _refuse_other(gister, self._info)
                self._gister = gister
            return self._gister


def _refuse_other(gister: Gister, info: MemoryInfo) -> None:
    given = (gister.name, gister.version, gister.gist_width, gister.dim, gister.block_tokens)
    wanted = (info.gister_name, info.gister_version, info.gist_width, info.dim, info.block_tokens)
    if given != wanted:
        raise BaseMismatchError(
            f"gister (name, version, width, dim, block) is {given}, the memory's gists are of {wanted}; "
            "open it with that gister, or move the memory with `megacontext regist`"
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Ports and fixed facts of one open memory."""

    catalog: Catalog
    arrays: ArrayStore
    blobs: BlobStore
    codec: TextCodec
    gister: LazyGister
    siblings: Siblings = field(default_factory=NoSiblings)

    @property
    def info(self) -> MemoryInfo:
        return self.catalog.info

    @property
    def tree(self) -> TreeGeometry:
        return TreeGeometry(self.catalog.info.block_tokens)
