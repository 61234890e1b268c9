"""What an evaluation has found so far, on disk after every method of every history, so that it can be interrupted.

run.json        what was asked for, of which base, when and where
trials.jsonl    one line for each method on each history and window; a line that was cut off is dropped
results.json, report.html, report.png   written at the end
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from megacontext.errors import InvalidValueError, MemoryExistsError, MemoryLockedError
from megacontext.evaluation.runs.trials import ItemResult

__all__ = ["Record", "RunFolder"]

RUN, TRIALS, WORK, LOCK = "run.json", "trials.jsonl", "work", "run.lock"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One method on one history and window. skipped: why it could not run, '' if it did."""

    task: str
    key: str
    facets: Mapping[str, str]
    budget: int
    method: str
    seconds: float = 0.0
    skipped: str = ""
    items: tuple[ItemResult, ...] = field(default=())

    @property
    def place(self) -> tuple[str, str, int, str]:
        return self.task, self.key, self.budget, self.method


class RunFolder:
    """The folder of one run.

    settings: what decides the figures; a run resumes only with the same ones.
    Raises MemoryExistsError if there is a run and ``resume`` is False, or something else; InvalidValueError if what is
    there was run with other settings; MemoryLockedError while another process runs it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.work = path / WORK
        self._settings = json.loads(json.dumps(settings))
        if path.exists() and not path.is_dir():
            raise MemoryExistsError(f"{path} is a file; choose another folder with --out")
        if (path / RUN).is_file():
            self._check_resumable(resume)
        elif path.is_dir() and any(path.iterdir()):
            raise MemoryExistsError(f"{path} is not empty and holds no run; choose another folder with --out")
        else:
            path.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise MemoryLockedError(
                f"{path} is being written by another run; wait for it, or choose another folder with --out"
            ) from error
        if not (path / RUN).is_file():
            content = json.dumps({"settings": self._settings, **about}, indent=2)
            (path / RUN).write_text(content + "\n", encoding="utf-8")
        self.about: dict[str, Any] = json.loads((path / RUN).read_text(encoding="utf-8"))
        self._records = {record.place: record for record in self._read()}
        self._rewrite()

    def close(self) -> None:
        """Let others go on with the run; what was found stays."""
        (self.path / LOCK).unlink(missing_ok=True)
        self._lock.release()

    @property
    def records(self) -> list[Record]:
        return list(self._records.values())

    def has(self, place: tuple[str, str, int, str]) -> bool:
        return place in self._records

    def add(self, record: Record) -> None:
        """Keep a record; it is on disk when this returns."""
        self._records[record.place] = record
        with (self.path / TRIALS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")

    def _check_resumable(self, resume: bool) -> None:
        if not resume:
            raise MemoryExistsError(
                f"{self.path} holds a run already; go on with it (--resume), or choose another folder with --out"
            )
        try:
            earlier = json.loads((self.path / RUN).read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidValueError(f"{self.path / RUN} cannot be read ({error}); choose another --out") from error
        differing = sorted(
            name for name in {*earlier, *self._settings} if earlier.get(name) != self._settings.get(name)
        )
        if differing:
            name = differing[0]
            raise InvalidValueError(
                f"{self.path} was run with {name} {earlier.get(name)!r}, not {self._settings.get(name)!r}; resume with "
                "the same arguments, or choose another folder with --out"
            )

    def _read(self) -> Iterator[Record]:
        path = self.path / TRIALS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in lines:
            try:
                fields = json.loads(line)
                items = tuple(
                    ItemResult(
                        facets=item["facets"],
                        measures={name: (total, count) for name, (total, count) in item["measures"].items()},
                        said=item["said"],
                        evidence=tuple((start, stop) for start, stop in item["evidence"]),
                    )
                    for item in fields.pop("items")
                )
                yield Record(items=items, **fields)
            except (ValueError, KeyError, TypeError):
                return  # cut off when the run was interrupted; it is run again

    def _rewrite(self) -> None:
        lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in self._records.values()]
        (self.path / TRIALS).write_text("".join(lines), encoding="utf-8")
