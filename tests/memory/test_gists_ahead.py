"""Gists made beside an ingest."""

from __future__ import annotations

import logging
import time
from collections import Counter
from threading import current_thread

import numpy as np
import pytest
from tests.memory.doubles import MeanGister

from megacontext.errors import StorageFullError
from megacontext.memory.layout import gist_spec

SEGMENT = 512


def hay(num_tokens):
    return "hay and more " * (num_tokens // 13) + "." * (num_tokens % 13)


def test_a_long_ingest_keeps_gists_before_it_has_ended(kit, tmp_path):
    """So that a kill does not lose them all."""
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(hay(3 * SEGMENT))
    memory = kit.make_memory()
    catalog, seen = memory._parts.catalog, []

    def look(progress):
        seen.append((progress.num_tokens, catalog.state().sealed_nodes.get(1, 0)))
        time.sleep(0.01)

    memory.ingest(tmp_path, progress=look)
    assert any(sealed > 0 for num_tokens, sealed in seen if num_tokens < memory.num_tokens)
    assert catalog.state().sealed_nodes[1] == 90 * SEGMENT // 8
    assert memory.check(recompute_gists=True).ok


def test_a_gister_that_fails_defers_gists_and_nothing_else(kit, caplog):
    caplog.set_level(logging.CRITICAL)

    def broken():
        raise kit.BaseMismatchError("no model; get one")

    memory = kit.make_memory(gister=broken)
    report = memory.ingest(text=hay(5 * SEGMENT))
    assert (report.num_tokens, report.deferred) == (5 * SEGMENT, "no model; get one")


def test_a_bug_of_a_gister_is_seen(kit):
    class Buggy(kit.MeanGister):
        def from_tokens(self, token_ids, *, start, num_context):
            raise ZeroDivisionError

    memory = kit.make_memory(Buggy())
    with pytest.raises(ZeroDivisionError):
        memory.ingest(text=hay(5 * SEGMENT))
    assert memory.num_tokens == 5 * SEGMENT


def test_gists_that_find_no_room_are_made_later(kit, caplog):
    caplog.set_level(logging.CRITICAL)
    arrays = kit.MemoryArrays()
    memory = kit.make_memory(arrays=arrays)
    write = arrays.write_shard

    def only_tokens(spec, shard, rows):
        if spec.name == gist_spec(memory.info, 1).name:
            raise StorageFullError("no space left")
        write(spec, shard, rows)

    arrays.write_shard = only_tokens
    assert memory.ingest(text=hay(9 * SEGMENT)).deferred == "no space left"
    arrays.write_shard = write
    assert memory.ingest(text="more").deferred == ""
    memory.append(np.arange(2 * SEGMENT) % 256)
    assert memory.check(recompute_gists=True).ok


class Counting(MeanGister):
    """Knows how many nodes of each level were made, and in which thread."""

    def __init__(self):
        super().__init__()
        self.made = Counter()

    def from_gists(self, children, *, level):
        gists = super().from_gists(children, level=level)
        self.made[level, current_thread().name == "gists"] += len(gists)
        return gists


@pytest.mark.parametrize("num_before", [0, 3 * SEGMENT, 11 * SEGMENT + 77])
def test_gists_of_level_2_are_made_while_sources_come_in(kit, tmp_path, num_before):
    """Wherever a shard of theirs begins: eight segments make one."""
    gister, plain = Counting(), kit.make_memory()
    memory = kit.make_memory(gister)
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(hay(SEGMENT + number))
    for one in (memory, plain):
        for start in range(0, num_before, 100):
            one.append(np.arange(start, min(start + 100, num_before)) % 256)
    gister.made.clear()
    memory.ingest(tmp_path)
    num_segments = memory.num_tokens // SEGMENT - num_before // SEGMENT
    assert gister.made[2, True] == num_segments * 8
    assert gister.made[2, False] <= 8 * 8
    for number in range(30):
        plain.append(plain.codec.encode(hay(SEGMENT + number)).token_ids)
    plain.store_gists()
    assert memory._reader.state.sealed_nodes == plain._reader.state.sealed_nodes
    for level in range(1, memory.num_levels):
        stop = memory.tree.num_nodes(level, memory.num_tokens)
        assert memory.gists(level, 0, stop).tobytes() == plain.gists(level, 0, stop).tobytes()
        assert sum(len(batch) for _, batch in memory._parts.catalog.gists(level, 0, stop)) == (
            stop - memory._reader.state.sealed_nodes.get(level, 0)
        )
    assert memory.check(recompute_gists=True).ok
