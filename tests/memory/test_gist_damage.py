"""Gists that are damaged, or not what their tokens give: found, and no more of them made again than that."""

from __future__ import annotations

import dataclasses
import sqlite3

import numpy as np
import pytest


def test_gists_of_other_tokens_are_found_when_recomputed(kit, tmp_path):
    class Liar(kit.MeanGister):
        def from_tokens(self, token_ids, *, start, num_context):
            batch = super().from_tokens(token_ids, start=start, num_context=num_context)
            return dataclasses.replace(batch, vectors=batch.vectors + np.float16(start == 512))

    tokens = np.arange(1100) % 256
    with kit.open_folder(tmp_path / "m", Liar()) as memory:
        memory.append(tokens[:512])
        memory.append(tokens[512:])
    with kit.open_folder(tmp_path / "m") as memory:
        assert memory.check().ok
        report = memory.check(recompute_gists=True)
        assert {damage.object_name for damage in report.damages} == {"arrays/lod1/c/1/0/0"}
        assert report.damages[0].token_start >= 512
        assert memory.check(repair=True, recompute_gists=True).ok
        assert memory.check(recompute_gists=True).ok


def test_gists_that_wait_in_the_catalog_are_compared_with_fresh_ones(kit, folder):
    """Of a short history they are all that there is."""
    with kit.open_folder(folder) as memory:
        start, stop = memory.reader.state.sealed_nodes.get(1, 0), memory.num_tokens // 8
        (node, gists), *_ = memory._parts.catalog.gists(1, start, stop)
        with memory._parts.catalog.write() as writer:
            writer.put_gists(1, node, dataclasses.replace(gists[:1], vectors=gists.vectors[:1] + 1))
        assert memory.check().ok
        damage, *of_its_parents = memory.check(recompute_gists=True).damages
        assert all(other.token_stop - other.token_start > 8 for other in of_its_parents)
        assert (damage.object_name, damage.token_start, damage.token_stop) == ("catalog: gists", 8 * node, 8 * node + 8)
        assert damage.problem == "1 gists are not what their tokens give"
        assert memory.check(repair=True, recompute_gists=True).ok
        assert memory.check(recompute_gists=True).damages == ()


@pytest.fixture
def costly(kit):
    """A gister whose gists have a price; ``made`` says of how many tokens some were made."""

    class Costly(kit.MeanGister):
        nodes_at_once = 4

        def __init__(self):
            super().__init__()
            self.made = []

        def from_tokens(self, token_ids, *, start, num_context):
            self.made.append(len(token_ids) - num_context)
            return super().from_tokens(token_ids, start=start, num_context=num_context)

        def from_gists(self, children, *, level):
            self.made.append(len(children) * 8 ** (level - 1))
            return super().from_gists(children, level=level)

    return Costly()


def waiting(memory):
    """Nodes of level 1 that wait in the catalog, and how many there should be."""
    first, stop = memory.reader.state.sealed_nodes.get(1, 0), memory.num_tokens // 8
    return sum(len(batch) for _, batch in memory._parts.catalog.gists(1, first, stop)), stop - first


def spoil(folder, statement):
    connection = sqlite3.connect(folder / "catalog.sqlite")
    assert connection.execute(statement).rowcount >= 1
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "made"),
    [
        ("UPDATE gists SET crc = crc + 1 WHERE level = 1 AND node = 70", [8]),
        ("UPDATE gists SET crc = crc + 1 WHERE level = 1", [32, 32, 32, 32]),
        ("UPDATE passages SET crc = crc + 1", []),
        ("UPDATE sources SET crc = crc + 1 WHERE source_id = 1", []),
    ],
)
def test_gists_that_have_a_price_are_paid_again_only_where_they_are_damaged(kit, tmp_path, costly, statement, made):
    folder = tmp_path / "m"
    with kit.open_folder(folder, costly) as memory:
        memory.ingest(text="words " * 106 + "more", source="text")
        assert waiting(memory) == (16, 16)
    spoil(folder, statement)
    costly.made.clear()
    with kit.open_folder(folder, costly) as memory:
        assert memory.check(repair=True).ok
        assert costly.made == made
        assert waiting(memory) == (16, 16)


@pytest.mark.parametrize("has_price", [False, True])
def test_gists_that_were_lost_with_the_catalog(kit, tmp_path, costly, has_price):
    """They are made again, unless that has a price."""
    folder = tmp_path / "m"
    with kit.open_folder(folder, costly if has_price else None) as memory:
        memory.ingest(text="words " * 150, source="text")
        num = waiting(memory)[1]
    (folder / "catalog.sqlite").unlink()
    with kit.open_folder(folder, costly if has_price else None) as memory:
        costly.made.clear()
        assert memory.check(repair=True).ok
        assert costly.made == []
        assert waiting(memory) == (0 if has_price else num, num)


def test_what_was_made_of_a_gist_that_is_not_its_tokens_is_made_again(kit, folder):
    """Also where it agrees with that."""
    with kit.open_folder(folder) as memory:
        first, stop = memory.reader.state.sealed_nodes[1], memory.num_tokens // 8
        parent = -(-first // 8)
        assert (parent + 1) * 8 <= stop
        catalog = memory._parts.catalog
        for level, node in ((1, 8 * parent), (2, parent)):
            [(_, gists)] = catalog.gists(level, node, node + 1)
            wrong = (
                dataclasses.replace(gists, vectors=gists.vectors + 1)
                if level == 1
                else memory.reader.compute(2, node, node + 1)
            )
            with catalog.write() as writer:
                writer.put_gists(level, node, wrong)
        assert len(memory.check(recompute_gists=True).damages) == 1
        assert memory.check(repair=True, recompute_gists=True).ok
        assert memory.check(recompute_gists=True).damages == ()
