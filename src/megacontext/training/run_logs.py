"""What a run told while it trained, kept beside the model that it made: without it no curve can be drawn again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.errors import InvalidValueError
from megacontext.training.tokens import first_line

__all__ = ["LARGE_BYTES", "copy_run_logs", "drop_torn_line", "last_start"]

LOGS = ("log.jsonl", "starts.jsonl")
LARGE_BYTES = 256 * 1024  # of a log, from which on it is kept compressed


def copy_run_logs(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Copy ``log.jsonl`` and ``starts.jsonl`` of a run, last of those that it went on from, into a folder.

    The last run's keep their names, those before are ``log.1.jsonl``, ``log.2.jsonl`` ... in order; what is longer than
    ``LARGE_BYTES`` is compressed (``.gz``). A run may go on meanwhile: a line that is not yet whole is left out. What a
    run does not have is not copied. Returns the files that were written; InvalidValueError if a run is no folder.
    """
    written = []
    for number, run in enumerate(runs, 1):
        if not run.is_dir():
            raise InvalidValueError(f"{run} is no folder; give the --out of a run")
        for name in LOGS:
            if not (run / name).is_file():
                continue
            content = (run / name).read_bytes()
            content = content[: content.rfind(b"\n") + 1]
            stem = Path(name).stem
            copy = folder / (name if number == len(runs) else f"{stem}.{number}.jsonl")
            if len(content) > LARGE_BYTES:
                copy, content = copy.with_name(f"{copy.name}.gz"), gzip.compress(content, mtime=0)
            copy.write_bytes(content)
            written.append(copy)
    return written


def last_start(run: Path) -> Mapping[str, Any]:
    """What a run noted of itself when it was last started: configuration, processes, versions. InvalidValueError if it
    noted nothing that can be read."""
    path = run / "starts.jsonl"
    try:
        lines = path.read_text().splitlines()
        start = json.loads(lines[-1])
        if not isinstance(start, dict):
            raise TypeError(f"its last line is {lines[-1][:40]!r}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidValueError(f"{path} tells of no start ({first_line(error)}); give the --out of a run") from error
    return start


def drop_torn_line(log: Path) -> None:
    """Cut off the last line of a log if it is not whole, as a full disk or a lost machine leaves it: what is written
    after it would be one line with it. Raises OSError."""
    if not log.is_file():
        return
    with log.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
