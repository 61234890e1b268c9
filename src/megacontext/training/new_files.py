"""Files that take minutes to make come to a folder all together, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["in_one_move"]


@contextmanager
def in_one_move(folder: Path) -> Iterator[Path]:
    """A place beside ``folder`` to write to. In the end what ``folder`` lacks of it moves there, arrays (`.npz`) after
    everything else; where that is not reached, nothing is left, not even folders above."""
    partial = folder.with_name(f"{folder.name}.partial")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        if not folder.exists():
            partial.rename(folder)
            return
        files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: path.suffix == ".npz"):
            target = folder / path.relative_to(partial)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.move(path, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # what was made stands in it
                parent.rmdir()
