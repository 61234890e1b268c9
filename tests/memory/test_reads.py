"""Reading spans and nodes, one or many, wherever they are kept."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.memory.gist_rows import RowCache
from megacontext.memory.layout import token_spec
from megacontext.tree.cuts import Cut


@pytest.fixture
def memory(kit):
    """Two segments sealed, and a tail whose last blocks nobody has stored gists of."""
    memory = kit.make_memory(kit.ContextGister())
    memory.append(np.random.default_rng(1).integers(0, kit.VOCAB, 1500))
    return memory


def test_many_spans_are_single_spans(memory):
    spans = [(0, 0), (1020, 1030), (5, 600), (1400, 1500), (0, 1500), (1500, 1500), (7, 8), (1023, 1024), (1024, 1025)]
    for span, tokens in zip(spans, memory.reader.token_batch(spans), strict=True):
        assert np.array_equal(tokens, memory.tokens(*span))
        assert tokens.dtype == np.uint32
        assert len(tokens) == span[1] - span[0]


def test_many_nodes_are_single_nodes(memory):
    levels = np.array([1, 2, 1, 1, 3, 1, 2, 1])
    indices = np.array([186, 3, 0, 127, 1, 128, 22, 186])
    batch = memory.reader.gist_batch(levels, indices)
    for row, (level, index) in enumerate(zip(levels.tolist(), indices.tolist(), strict=True)):
        one = memory.reader.gists(level, index, index + 1)
        assert np.array_equal(batch.vectors[row], one.vectors[0])
        assert np.array_equal(batch.offsets[row], one.offsets[0])
        assert np.array_equal(batch.weights[row], one.weights[0])
    assert len(memory.reader.gist_batch(np.empty(0, np.int64), np.empty(0, np.int64))) == 0


def test_single_positions_are_tokens_wherever_they_are(memory):
    whole = memory.tokens(0, 1500)
    random = np.random.default_rng(0)
    for low, high in ((0, 1024), (1024, 1500), (0, 1500), (1023, 1025)):
        positions = random.integers(low, high, 300)
        assert np.array_equal(memory.reader.tokens_at(positions), whole[positions])
    assert memory.reader.tokens_at(np.empty(0, np.int64)).dtype == np.uint32
    for position in (-1, 1500):
        with pytest.raises(InvalidValueError, match="1500 tokens"):
            memory.reader.tokens_at(np.array([3, position]))


def test_a_lone_reader_follows_what_is_sealed_meanwhile(kit):
    """Positions that were in the tail when it last looked, and are in a shard by now."""
    catalog, arrays, blobs = kit.MemoryCatalog(kit.make_info(kit.MeanGister())), kit.MemoryArrays(), kit.MemoryBlobs()
    writer = kit.make_memory(catalog=catalog, arrays=arrays, blobs=blobs)
    tokens = np.random.default_rng(3).integers(0, 300, 1400)
    writer.append(tokens[:700])
    reader = kit.make_memory(catalog=catalog, arrays=arrays, blobs=blobs, read_only=True)
    assert reader.num_tokens == 700
    writer.append(tokens[700:])
    positions = np.arange(699, -1, -7)
    assert np.array_equal(reader.reader.tokens_at(positions), tokens[positions])


def test_gists_are_float16_rows(memory):
    assert memory.gists(1, 3, 9).shape == (6, 1, 4)
    assert memory.gists(1, 3, 9).dtype == np.float16
    assert memory.gists(1, 3, 3).shape == (0, 1, 4)
    assert memory.gists(7, 0, 0).shape == (0, 1, 4)


@pytest.mark.parametrize("span", [(-1, 3), (3, 2), (0, 1501), (1501, 1501)])
def test_spans_outside_the_history(memory, span):
    with pytest.raises(InvalidValueError, match="1500 tokens"):
        memory.tokens(*span)
    with pytest.raises(InvalidValueError, match="1500 tokens"):
        memory.provenance(*span)


def test_nodes_outside_the_tree(memory):
    with pytest.raises(InvalidValueError, match="187 nodes of level 1"):
        memory.gists(1, 0, 188)
    with pytest.raises(InvalidValueError, match="level 0"):
        memory.gists(0, 0, 1)
    with pytest.raises(InvalidValueError, match="one level per node"):
        memory.reader.gist_batch(np.array([1]), np.array([1, 2]))


def test_a_missing_shard_is_named(kit):
    arrays = kit.MemoryArrays()
    memory = kit.make_memory(arrays=arrays)
    memory.append(np.arange(600) % 300)
    arrays.lose(token_spec(memory.info), 0)
    with pytest.raises(CorruptionError, match="lod0"):
        memory.tokens(0, 10)
    assert len(memory.tokens(512, 600)) == 88


def test_readers_see_what_a_writer_seals_meanwhile(kit):
    """A reader's snapshot stays readable while rows move from the catalog to shards under it."""
    catalog, arrays, blobs = kit.MemoryCatalog(kit.make_info(kit.MeanGister())), kit.MemoryArrays(), kit.MemoryBlobs()
    writer = kit.make_memory(catalog=catalog, arrays=arrays, blobs=blobs)
    tokens = np.random.default_rng(2).integers(0, 300, 3000)
    writer.ingest(text="x" * 400)
    reader = kit.make_memory(catalog=catalog, arrays=arrays, blobs=blobs, read_only=True)
    before = kit.contents(reader)
    writer.append(tokens)
    assert reader.num_tokens == 400
    now = kit.contents(reader)
    assert (now["tokens"], now["gists"]) == (before["tokens"], before["gists"])
    writer.append_text("a needle in new hay, " * 20)
    assert all(hit.token_stop <= 400 for hit in reader.search_hits("needle", limit=50))
    assert all(result.token_stop <= 400 for result in reader.search("needle x", limit=50))
    assert reader.refresh() == 3820
    assert kit.contents(reader) == kit.contents(writer)


def test_rows_that_moved_into_a_shard_are_not_computed_again(kit):
    """The catalog held them when the reader last looked; by now they are sealed."""
    catalog, arrays, blobs = kit.MemoryCatalog(kit.make_info(kit.MeanGister())), kit.MemoryArrays(), kit.MemoryBlobs()

    def refuse():
        raise AssertionError("computed")

    writer = kit.make_memory(catalog=catalog, arrays=arrays, blobs=blobs)
    writer.ingest(text="x" * 400)
    reader = kit.make_memory(catalog=catalog, arrays=arrays, blobs=blobs, gister=refuse, read_only=True)
    assert reader.num_tokens == 400
    writer.append(np.arange(300))
    assert catalog.state().sealed_nodes[1] == 64
    assert np.array_equal(reader.gists(1, 3, 50), writer.gists(1, 3, 50))
    batch = reader.reader.gist_batch(np.array([1, 2]), np.array([7, 5]))
    assert np.array_equal(batch.vectors[0], writer.gists(1, 7, 8)[0])


def test_opening_and_reading_tokens_makes_no_gister(kit):
    def refuse():
        raise AssertionError("loaded")

    memory = kit.make_memory(gister=refuse)
    memory.append(np.arange(100))
    assert len(memory.tokens(0, 100)) == 100
    memory.search("x")
    memory.inspect()


def test_another_gister_is_refused(kit):
    other = kit.MeanGister()
    other.version = "2"
    memory = kit.make_memory(kit.MeanGister(), gister=lambda: other)
    memory.append(np.arange(100))
    with pytest.raises(kit.BaseMismatchError, match="'2'"):
        memory.gists(1, 0, 1)


def test_the_row_cache_is_bounded(kit):
    cache = RowCache(1, 4, cache_bytes=64 * 16)
    rows = kit.MeanGister().from_tokens(np.arange(8 * 100, dtype=np.uint32) % 300, start=0, num_context=0)
    cache.put(1, 0, rows)
    kept = [index for index in range(100) if cache.get(1, index) is not None]
    assert kept == list(range(36, 100))
    assert np.array_equal(cache.get(1, 99).vectors, rows.vectors[99:])
    assert cache.missing(1, [35, 36]) == [35]


def test_rows_of_a_cut_that_a_silent_store_holds_are_told_apart_from_those_at_hand(kit):
    arrays = kit.MemoryArrays()
    memory = kit.make_memory(arrays=arrays)
    memory.append(np.arange(1300) % 256)  # 2 segments of 512, and a tail
    cut = Cut.of(
        [(0, 0, 8), (0, 504, 512), (0, 512, 520), (1, 520, 528), (2, 576, 640), (1, 1024, 1032), (0, 1032, 1040)]
    )
    assert memory.reader.can_read(cut).all()
    arrays.silent |= {("lod0", 0), ("meta1", 1)}
    assert memory.reader.can_read(cut).tolist() == [False, False, True, False, True, True, True]
    arrays.silent |= {("lod0", 1)}
    arrays.lose(token_spec(memory.info), 0)
    arrays.silent -= {("lod0", 0)}
    with pytest.raises(CorruptionError, match="lod0/c/0"):
        memory.reader.can_read(cut)


def test_gists_that_have_to_be_computed_are_absent_with_what_they_are_made_of(kit):
    arrays = kit.MemoryArrays()
    memory = kit.make_memory(arrays=arrays)
    memory.append(np.arange(1024) % 256)
    block = Cut.of([(1, 0, 8)])
    memory._parts.catalog._contents.sealed_nodes.clear()  # as if its gists had never been stored
    memory._parts.catalog._contents.gists.clear()
    memory.refresh()
    arrays.silent.add(("lod0", 0))
    assert memory.reader.can_read(block).tolist() == [False]
    arrays.silent.clear()
    assert memory.reader.can_read(block).tolist() == [True]


def test_what_is_fetched_ahead_is_what_the_store_holds(kit):
    arrays = kit.MemoryArrays()
    memory = kit.make_memory(arrays=arrays)
    memory.append(np.arange(1300) % 256)
    memory.reader.prefetch(Cut.of([(0, 8, 16), (1, 520, 528), (0, 1024, 1032), (1, 1032, 1040)]))
    assert arrays.ahead == [("lod0", 8, 16), ("lod1", 65, 66), ("meta1", 65, 66)]
    kit.make_memory(arrays=OnlyReads(arrays)).reader.prefetch(Cut.of([(0, 8, 16)]))
    assert len(arrays.ahead) == 3


class OnlyReads:
    """A store that cannot fetch ahead."""

    def __init__(self, arrays):
        self.read_many = arrays.read_many
