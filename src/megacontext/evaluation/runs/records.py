"""What an evaluation has found so far, on disk after every method of every history, so that it can be interrupted.

run.json        what was asked for, of which base, when and where
trials.jsonl    one line for each method on each history and window; a last line that was cut off is run again
results.json, report.html, report.png   written at the end
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacontext.errors import CorruptionError, InvalidValueError, MemoryExistsError
from megacontext.evaluation.runs.trials import ItemResult, Measure
from megacontext.evaluation.tasks.task import RIGHT, SCORE
from megacontext.memory.lock import RunLock
from megacontext.values import file_in_the_way, number, reason_of, whole_number

__all__ = ["RUN", "Record", "RunFolder"]

RUN, TRIALS, WORK = "run.json", "trials.jsonl", "work"
SHARES = (SCORE.name, RIGHT.name)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One method on one history and window. skipped: why it, or some of its items, could not run, '' if all did;
    may_run: whether it may, next time; history: a digest of the tokens that were asked about, '' where there was no
    history and in records of before."""

    task: str
    key: str
    facets: Mapping[str, str]
    budget: int
    method: str
    seconds: float = 0.0
    skipped: str = ""
    may_run: bool = False
    history: str = ""
    items: tuple[ItemResult, ...] = field(default=())

    @property
    def place(self) -> tuple[str, str, int, str]:
        return self.task, self.key, self.budget, self.method


class RunFolder:
    """The folder of one run. What was found is only read until something is added.

    settings: what decides the figures; a run resumes only with the same ones.
    Raises MemoryExistsError if there is a run and ``resume`` is False, or something else; InvalidValueError if what is
    there was run with other settings; MemoryLockedError while another process runs it; CorruptionError if a line before
    the last is no record.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.work = path / WORK
        self._settings = json.loads(json.dumps(settings))
        if (file := file_in_the_way(path)) is not None:
            raise MemoryExistsError(f"{file} is a file; choose another folder with --out")
        if (path / RUN).is_file():
            self._check_resumable(resume)
        elif path.is_dir() and any(path.iterdir()):
            raise MemoryExistsError(f"{path} is not empty and holds no run; choose another folder with --out")
        self._lock = RunLock(path)
        try:
            if not (path / RUN).is_file():
                content = json.dumps({"settings": self._settings, **about}, indent=2)
                (path / RUN).write_text(content + "\n", encoding="utf-8")
            self.about: dict[str, Any] = json.loads((path / RUN).read_text(encoding="utf-8"))
            self._records, self._whole_bytes = self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others go on with the run; what was found stays."""
        self._lock.release()

    @property
    def records(self) -> list[Record]:
        return list(self._records.values())

    def has(self, place: tuple[str, str, int, str]) -> bool:
        return place in self._records and not self._records[place].may_run

    def check_history(self, task: str, key: str, history: str) -> None:
        """Raise InvalidValueError if what was found of a history was found of another one, or by a version that drew
        histories in another way."""
        for record in self._records.values():
            if record.items and not record.history:
                raise InvalidValueError(
                    f"{self.path} was begun by an earlier version, which drew other histories, and is not finished; "
                    "run it anew in another folder (--out)"
                )
            if (record.task, record.key) == (task, key) and record.history != history:
                raise InvalidValueError(
                    f"{self.path} was run on another text for {key}: the data, the Python version whose library is "
                    "read, or this program have changed since; run it anew in another folder (--out)"
                )

    def add(self, record: Record) -> None:
        """Keep a record; it is on disk when this returns."""
        line = json.dumps(asdict(record), ensure_ascii=False).encode() + b"\n"
        self._drop_cut_off()
        with (self.path / TRIALS).open("ab") as file:
            file.write(line)
        self._records[record.place] = record
        self._whole_bytes += len(line)

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

    def _read(self) -> tuple[dict[tuple[str, str, int, str], Record], int]:
        """The records by place, and how many bytes of the file they take: the last line may have been cut off."""
        path = self.path / TRIALS
        *lines, rest = path.read_bytes().split(b"\n") if path.is_file() else [b""]  # text holds other ends of lines
        records: dict[tuple[str, str, int, str], Record] = {}
        whole_bytes = 0
        for line_number, line in enumerate(lines, 1):
            try:
                record = _record(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if line_number == len(lines) and not rest:
                    break
                said = f"{type(error).__name__}: {reason_of(error)}"
                raise CorruptionError(
                    f"{path}, line {line_number} is no record ({said}), and others follow it; take it out and go on "
                    "with --resume, which runs it again, or choose another folder with --out"
                ) from error
            records[record.place] = record
            whole_bytes += len(line) + 1
        return records, whole_bytes

    def _drop_cut_off(self) -> None:
        """Leave whole lines only, in one move, so that what is added begins a line."""
        path = self.path / TRIALS
        if not path.is_file() or path.stat().st_size == self._whole_bytes:
            return
        partial = path.with_name(f"{TRIALS}.partial")
        partial.write_bytes(path.read_bytes()[: self._whole_bytes])
        partial.replace(path)


def _measure(name: str, total: object, count: object) -> Measure:
    """As a run writes it; ValueError for what none can have found."""
    whole = whole_number(f"the count of {name}", count)
    if name in SHARES or not whole:
        return number(f"the sum of {name}", total, least=0, most=whole), whole
    return number(f"the sum of {name}", total), whole


def _record(fields: dict[str, Any]) -> Record:
    number("seconds", fields.get("seconds", 0.0), least=0)
    items = tuple(
        ItemResult(
            facets=item["facets"],
            measures={name: _measure(name, *found) for name, found in item["measures"].items()},
            said=item["said"],
            evidence=tuple((start, stop) for start, stop in item["evidence"]),
        )
        for item in fields.pop("items")
    )
    return Record(items=items, **fields)
