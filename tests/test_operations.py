"""The regression gate: what fixed workloads do, counted, against the committed counts (benchmarks/operations.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "operations.py"


@pytest.fixture(scope="module")
def operations():
    spec = importlib.util.spec_from_file_location("operations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["operations"] = module
    spec.loader.exec_module(module)
    return module


def test_no_workload_does_more_than_was_committed(operations):
    found = operations.count_all()
    committed = operations.json.loads(operations.COMMITTED.read_text())
    assert operations.compare(found, committed) == []


def test_the_gate_sees_what_rose_and_what_is_out_of_date(operations, capsys):
    committed = {"work": {"calls": 1000, "sql": 10}}
    assert operations.compare({"work": {"calls": 1019, "sql": 10}}, committed) == []
    assert len(operations.compare({"work": {"calls": 1021, "sql": 11}}, committed)) == 2
    assert "commit it" in operations.compare({"work": {"calls": 899, "sql": 10}}, committed)[0]
    assert "instead of 0" in operations.compare({"other": {"sql": 1}, **committed}, committed)[0]
    assert "calls" in capsys.readouterr().out


def test_calls_of_every_kind_are_counted(operations, tmp_path):
    with operations.counted() as counts:
        world = operations.World(tmp_path)
        operations.answers(world)
        world.memory.close()
    assert {"calls", "sql", "syncs", "products", "tensorstore"} <= set(counts)
