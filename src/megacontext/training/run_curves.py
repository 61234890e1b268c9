"""The figures of a run by the tokens that it had seen, read from its logs: what a picture of training is drawn from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError

__all__ = ["RunCurves", "read_run_curves"]


@dataclass(frozen=True)
class RunCurves:
    """What runs logged that went on one from another.

    starts: tokens after which each run began, ascending, the first 0.
    lines: what was logged, in order; ``tokens`` counts those of all runs together.
    """

    starts: tuple[int, ...]
    lines: tuple[dict[str, Any], ...]

    def curve(self, *names: str, over: int = 1) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Tokens and values, float64, shape (lines that have any of the figures,): their mean, and then that of
        ``over`` such lines in a row (fewer at the start)."""
        points = [
            (line["tokens"], float(np.mean([line[name] for name in names if name in line])))
            for line in self.lines
            if any(name in line for name in names)
        ]
        tokens, values = np.array(points, np.float64).reshape(-1, 2).T
        sums = np.concatenate([[0.0], np.cumsum(values)])
        stops = np.arange(1, len(values) + 1)
        firsts = np.maximum(0, stops - over)
        return tokens, (sums[stops] - sums[firsts]) / (stops - firsts)


def read_run_curves(folders: Sequence[Path]) -> RunCurves:
    """The logs of runs in order, each a folder of `megacontext train`, or an exported model, which holds all of them.

    A run that was resumed logs again what it does again: of each step the last line counts. A line that is being
    written is left out. InvalidValueError if a folder has no log, or a line no ``step`` and ``tokens``.
    """
    starts: list[int] = []
    lines: list[dict[str, Any]] = []
    for path in (path for folder in folders for path in _logs_of(folder)):
        starts.append(lines[-1]["tokens"] if lines else 0)
        own: list[dict[str, Any]] = []
        for number, line in enumerate(_read(path), start=1):
            if not line.endswith("\n"):
                break  # the run is writing it
            try:
                found = json.loads(line)
                step = int(found["step"])
                if own and "tokens" not in found and any(name.startswith("gate/") for name in found):
                    own[-1] |= found | {"step": own[-1]["step"]}
                    continue
                tokens = int(found["tokens"])
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidValueError(
                    f"{path} line {number} is no figures of a step ({error}); give a log that training wrote"
                ) from error
            while own and own[-1]["step"] >= step:
                own.pop()
            own.append(found | {"tokens": starts[-1] + tokens})
        lines += own
    return RunCurves(tuple(starts), tuple(lines))


def _logs_of(folder: Path) -> list[Path]:
    """Those of the runs before, by number, then the folder's own."""
    before = {
        int(path.name.split(".")[1]): path for path in folder.glob("log.*.jsonl*") if path.name.split(".")[1].isdigit()
    }
    last = [path for path in (folder / "log.jsonl", folder / "log.jsonl.gz") if path.is_file()]
    if not last:
        raise InvalidValueError(f"{folder} has no log.jsonl; give the --out of a run, or a model that export.py wrote")
    return [before[number] for number in sorted(before)] + last[:1]


def _read(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt") as file:
            yield from file
    else:
        with path.open() as file:
            yield from file
