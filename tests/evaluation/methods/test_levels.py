"""Windows of one level close all that is not pinned, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from megacontext.errors import BudgetError, InvalidValueError
from megacontext.evaluation.methods.contenders import closed_contenders, level_contenders, rows_for
from megacontext.evaluation.methods.focused import FocusedMemory, WindowShape
from megacontext.evaluation.methods.levels import OneLevel
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.fake_base import tiny_base

BASE = tiny_base()
TARGET = np.frombuffer(b"Line", np.uint8).astype(np.uint32)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedMemory]:
    with open_memory(
        tmp_path_factory.mktemp("levels") / "m.mc", base=BASE, create=True, gister="mean", block_tokens=8
    ) as opened:
        opened.append(np.arange(1003, dtype=np.uint32) % 256, source="numbers")
        yield opened


@pytest.mark.parametrize(("level", "num_nodes"), [(1, 120), (2, 14)])
def test_all_but_the_end_is_shown_at_one_level(level: int, num_nodes: int, memory: OpenedMemory) -> None:
    shape = WindowShape(lens="recency", allocator=OneLevel(level), recent_tokens=30)
    method = FocusedMemory(memory, BASE, budget_entries=300, shape=shape)
    method.nll(TARGET)
    wc = method.session.working_context
    closed = wc.levels > 0
    assert wc.levels.max() == level
    raw = [(int(a), int(b)) for a, b in zip(wc.starts[~closed], wc.stops[~closed], strict=True)]
    assert raw == [(0, 8), *((start, min(start + 8, 1003)) for start in range(968, 1003, 8))]
    assert (wc.stops[closed] - wc.starts[closed] == 8**level).sum() == num_nodes
    method.close()


def test_a_level_that_does_not_fit_says_what_would(memory: OpenedMemory) -> None:
    shape = WindowShape(lens="recency", allocator=OneLevel(1), recent_tokens=30)
    method = FocusedMemory(memory, BASE, budget_entries=120, shape=shape)
    with pytest.raises(BudgetError, match="at level 1 needs 156"):
        method.nll(TARGET)
    method.close()


class One:
    """One history only."""

    def __init__(self, memory: OpenedMemory) -> None:
        self._memory = memory

    def memory(self, gister: str) -> OpenedMemory:
        return self._memory

    donor = memory


def test_a_level_that_has_not_grown_is_left_out(memory: OpenedMemory, tmp_path: object) -> None:
    rows = {row.name: row for row in level_contenders(BASE.info)}
    with open_memory(f"{tmp_path}/short.mc", base=BASE, create=True, gister="mean") as short:
        short.append(np.zeros(1500, dtype=np.uint32), source="zeros")
        rows["level-1"].make(One(short), BASE, 400).close()
        with pytest.raises(InvalidValueError, match="shows no node of level 2"):
            rows["level-2"].make(One(short), BASE, 400)


def test_every_row_of_gists_has_its_controls() -> None:
    for rows in (level_contenders(BASE.info), closed_contenders(BASE.info)):
        for row in rows:
            if row.kind == "gists":
                assert any(other.of == row.name and other.kind == "control" for other in rows)
    assert [row.name for row in rows_for("levels", BASE.info)] == [row.name for row in level_contenders(BASE.info)]
