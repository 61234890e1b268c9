"""The regression gate: what fixed workloads do, counted, against the committed counts (benchmarks/operations.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from megacontext.runtime import assembly
from megacontext.runtime.engine import NO_TOKENS
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base

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
    assert {"calls", "sql", "syncs", "products", "tensorstore", "buffers", "allocations"} <= set(counts)


@pytest.mark.parametrize("make_base", [tiny_base, tiny_core_base])
def test_a_token_more_makes_no_buffer_and_joins_nothing_that_grows_with_the_window(operations, make_base, tmp_path):
    """Keys and values are written where there was room for them; each token costs what the one before it did."""
    with assembly.open(tmp_path / "m.mc", base=make_base(), create=True, gister="mean") as memory:
        memory.append(np.arange(97, 120).repeat(100))
        with memory.session(budget_entries=300, lens="recency") as session:
            session._engine.reserve(64, "tokens")
            window = session._engine.show(NO_TOKENS)
            counted = []
            for num_tokens in (1, 8, 16):
                with operations.counted() as counts:
                    for _ in range(num_tokens):
                        window.append(np.array([100], dtype=np.uint32))
                counted.append(counts)
    _, eight, sixteen = counted
    assert eight["buffers"] == sixteen["buffers"] == 0
    for kind in ("concatenations", "allocations", "products", "uploads"):
        assert sixteen[kind] == 2 * eight[kind]


def test_a_buffer_that_grows_and_what_torch_joins_are_counted_and_what_numpy_does_is_not(operations):
    base = tiny_base()
    cache = base.new_cache(4)
    with operations.counted() as counts:
        base.forward(base.embed(np.arange(3, dtype=np.uint32)), np.arange(3.0), cache)
    assert counts["buffers"] == 2 * len(cache) + 1  # keys and values of each layer, and the tapped queries
    with operations.counted() as grown:
        base.forward(base.embed(np.arange(3, dtype=np.uint32)), 3 + np.arange(3.0), cache)
    assert grown["buffers"] == counts["buffers"]
    with operations.counted() as counts:
        np.zeros(3), np.empty(3), np.concatenate([np.ones(2)]), torch.cat([torch.ones(2)])
        torch.ones(1).new_empty(2)
    assert counts == {"concatenations": 1, "allocations": 3}
