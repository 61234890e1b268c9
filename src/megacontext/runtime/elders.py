"""What a memory was before it was moved to another base: generations that do not count any more."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import MegaContextError
from megacontext.memory.orphans import named_digests
from megacontext.runtime.relatives import digests_of_others
from megacontext.storage.blobs import FileBlobs
from megacontext.storage.generations import Generation, all_generations, current_generation

__all__ = ["elders", "remove_elders"]


def elders(folder: Path) -> list[Generation]:
    """What a memory was before, as far as it is still there."""
    current = current_generation(folder)
    return [one for one in all_generations(folder) if one.number < current.number]


def remove_elders(folder: Path) -> tuple[int, list[Generation]]:
    """Remove it, under the writer's lock; bytes that are free now, and what stays because somebody reads it."""
    freed_bytes = 0
    for number in range(current_generation(folder).number):
        elder = Generation(folder, number)  # also what a crash left of one
        named = _named_digests(elder)
        num_bytes = elder.num_bytes()
        if elder.remove():
            freed_bytes += num_bytes + _forget_blobs(elder, named)
    left = elders(folder)
    if not left:
        current_generation(folder).settle()
    return freed_bytes, left


def _named_digests(generation: Generation) -> set[str]:
    """Blobs that a generation names, none if nobody can say: what is left then is removed by ``check --repair``."""
    try:
        with closing(SqliteCatalog.open(generation.folder, read_only=True)) as catalog:
            return named_digests(catalog)
    except MegaContextError:
        return set()


def _forget_blobs(removed: Generation, named: set[str]) -> int:
    """Delete those of the blobs that a generation named and no other one does; their bytes."""
    others = digests_of_others(removed)
    unnamed = set() if others is None else named - others - {""}
    if not unnamed:
        return 0
    blobs = FileBlobs(removed.memory_folder)
    before = blobs.num_bytes()
    for digest in sorted(unnamed):
        blobs.delete(digest)
    return before - blobs.num_bytes()
