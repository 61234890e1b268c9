"""A base that learned gists and a lens fills every row of every table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext.evaluation.methods.contenders import rows_for
from megacontext.evaluation.methods.method import Lead
from megacontext.focus.lenses.registry import known_lenses
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.fake_core import tiny_core_base

BASE = tiny_core_base()
TARGET = np.frombuffer(b"Line 150 says", np.uint8).astype(np.uint32)


class Two:
    """Two histories with the gists of any gister."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[str, OpenedMemory] = {}

    def memory(self, gister: str, history: str = "own") -> OpenedMemory:
        name = f"{history}-{gister}"
        if name not in self._opened:
            memory = open_memory(self._folder / name, base=BASE, create=True, gister=gister)
            memory.ingest(text="".join(f"{history} {number} is of note. " for number in range(130)), source="lines")
            self._opened[name] = memory
        return self._opened[name]

    def donor(self, gister: str) -> OpenedMemory:
        return self.memory(gister, "other")

    def close(self) -> None:
        for memory in self._opened.values():
            memory.close()


@pytest.mark.parametrize("kind", ["all", "closed", "levels"])
def test_every_row_answers_and_scores(kind: str, tmp_path: Path) -> None:
    histories = Two(tmp_path)
    rows = list(rows_for(kind, BASE.info))
    rows = [row for row in rows if not row.name.startswith(("level-2", "level-3"))]
    missing = {row.name for row in rows if not row.is_there}
    assert missing == (set() if kind != "all" or "lensnet" in known_lenses() else {"lensnet"})
    nats = {}
    for row in rows:
        if row.is_there:
            method = row.make(histories, BASE, 512)
            nats[row.name] = method.nll(TARGET, after=Lead(query="which?", evidence=[(40, 80)]))
            assert isinstance(method.answer("which?", evidence=[(40, 80)]), str)
            method.close()
    assert all(np.isfinite(values).all() and len(values) == len(TARGET) for values in nats.values())
    for row in rows:
        if row.of and row.name in nats:
            assert (nats[row.name] != nats[row.of]).any(), f"{row.name} shows what {row.of} shows"
    histories.close()
