"""After an erase nothing of a source is left in any file, everything else is as it was, and a crash can be finished."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from megacontext.catalog.journal import Journal
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.catalog.writing import SqliteWriter
from megacontext.errors import InvalidValueError, StorageFullError
from megacontext.memory.erase import Eraser
from megacontext.memory.layout import gist_spec, shard_nodes
from megacontext.memory.orphans import Orphans
from megacontext.memory.passages import passage_tokens
from megacontext.runtime import assembly
from megacontext.runtime.transfer import export_memory, import_memory
from megacontext.testing.fake_base import tiny_base

SECRET = "xylophone-quartz"
SEGMENT = 65_536


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def memory(tmp_path, base):
    """A secret across the border of the first segment, one more in the tail, other sources around them."""
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="mean") as opened:
        opened.append(np.random.default_rng(0).integers(97, 100, SEGMENT - 500))
        opened.ingest(text=f"The word is {SECRET}. " * 40, source="secret", labels={"owner": SECRET})
        opened.ingest(text="Bread is baked at six. " * 3000, source="bread")
        opened.append_text(f"A second version: {SECRET}.", source="secret")
        opened.append_text("And so it ends.", source="end")
        yield opened


def everything_in(folder):
    """Bytes of every file, blobs and zstd chunks unpacked where they can be."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            yield path, data
            if path.suffix == ".zst":
                yield path, zstandard.ZstdDecompressor().decompressobj().decompress(data)


def test_nothing_of_it_is_left_and_everything_else_is(memory, tmp_path):
    num_tokens = memory.num_tokens
    bread = next(source for source in memory.sources() if source.uri == "bread")
    kept = memory.text(bread.token_start, bread.token_stop)
    assert memory.search("xylophone")

    report = memory.erase("secret")

    assert (report.num_sources, report.shared_with) == (2, ())
    assert memory.num_tokens == num_tokens
    assert memory.search("xylophone") == []
    assert memory.search("baked")
    assert memory.text(bread.token_start, bread.token_stop) == kept
    assert [source.uri for source in memory.sources()] == ["tokens", "erased/2", "bread", "erased/4", "end"]
    assert SECRET not in memory.text(0, num_tokens)
    memory.close()
    assert words_left(tmp_path / "memory") == set()


def test_the_memory_checks_well_with_gists_as_if_it_had_never_been(memory, tmp_path, base):
    memory.erase("secret")
    report = memory.check(recompute_gists=True)
    assert report.damages == ()
    memory.close()
    with assembly.open(tmp_path / "memory", base=base) as again:
        assert again.check(recompute_gists=True).damages == ()
        start = again.append([1, 2, 3])
        assert again.tokens(start, start + 3).tolist() == [1, 2, 3]


def test_lost_shards_of_an_erased_memory_are_rebuilt(memory, tmp_path, base):
    memory.erase("secret")
    expected = memory.tokens(0, SEGMENT)
    memory.close()
    shard = tmp_path / "memory" / "arrays" / "lod0" / "c" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    with assembly.open(tmp_path / "memory", base=base) as again:
        assert again.check(repair=True).ok
    with assembly.open(tmp_path / "memory", base=base, read_only=True) as again:
        np.testing.assert_array_equal(again.tokens(0, SEGMENT), expected)


@pytest.mark.parametrize("step", ["_recompute_gists", "_delete_blobs"])
def test_a_crash_on_the_way_is_finished_by_erasing_again(memory, tmp_path, base, monkeypatch, step):
    with monkeypatch.context() as crash:
        crash.setattr(Eraser, step, lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.erase("secret")
    memory.close()
    with assembly.open(tmp_path / "memory", base=base) as again:
        assert again.erase("secret").num_sources == 2
        assert again.check(recompute_gists=True).damages == ()
        assert again.search("xylophone") == []


@pytest.mark.parametrize("step", ["_recompute_gists", "_delete_blobs"])
def test_tokens_without_a_text_are_gone_too_after_a_crash(memory, tmp_path, base, monkeypatch, step):
    """Their segment kept them in a blob of its own, which nothing names any more once the tokens are rewritten."""
    memory.erase("secret")
    memory.append(np.frombuffer(f"a bare {SECRET}".encode(), np.uint8), source="bare")
    memory.append(np.full(SEGMENT, 97), source="end")
    assert memory.reader.state.sealed_tokens > memory.sources()[-2].token_stop
    with monkeypatch.context() as crash:
        crash.setattr(Eraser, step, lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.erase("bare")
    memory.close()
    with assembly.open(tmp_path / "memory", base=base) as again:
        again.erase("bare")
        assert again.check(recompute_gists=True).damages == ()
        assert again.check().unused_bytes == 0
    assert words_left(tmp_path / "memory") == set()


def test_what_a_killed_ingest_made_of_a_newer_version_is_gone(memory, tmp_path, base, monkeypatch):
    """Its blobs, and gists behind those that are declared."""
    with monkeypatch.context() as killed:
        killed.setattr(SqliteWriter, "add_source", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        killed.setattr(Orphans, "clear_way", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            memory.ingest(text=f"A third version: {SECRET}. " * 40, source="secret")
    info = memory.info
    shard = memory.reader.state.sealed_nodes.get(1, 0) // shard_nodes(info)
    memory._parts.arrays.write_shard(gist_spec(info, 1), shard, np.ones((shard_nodes(info), 1, info.dim), np.float16))
    memory.close()
    with assembly.open(tmp_path / "memory", base=base) as again:
        assert again.check().unused_bytes > 0
        again.erase("secret")
        assert again.check().unused_bytes == 0
    assert words_left(tmp_path / "memory") == set()


def test_a_search_beside_an_erasure_neither_finds_it_nor_reads_the_whole_history(memory, tmp_path, base, monkeypatch):
    """Nor after one that died: without an index it sees the newest segment, passage by passage."""
    memory.append(np.full(SEGMENT, 97), source="more")
    memory.append_text("A late word: zebra.", source="late")
    with monkeypatch.context() as crash:
        crash.setattr(Eraser, "_recompute_gists", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.erase("secret")
    with assembly.open(tmp_path / "memory", base=base, read_only=True) as other:
        lengths, decode = [], type(other.codec).decode
        monkeypatch.setattr(
            type(other.codec), "decode", lambda self, ids: (lengths.append(len(ids)), decode(self, ids))[1]
        )
        assert other.search("xylophone quartz") == []
        [hit] = other.search("zebra")
        assert (hit.uri, hit.text) == ("late", "A late word: zebra.")
    assert max(lengths) <= passage_tokens(memory.info.block_tokens)
    assert sum(lengths) < 4 * SEGMENT


def words_left(folder):
    words = [SECRET.encode(), np.frombuffer(SECRET.encode(), np.uint8).astype("<u4").tobytes()]
    return {path.name for path, data in everything_in(folder) if any(word in data for word in words)}


def test_traces_that_a_crash_left_in_the_catalog_go_with_the_next_change(memory, tmp_path, base, monkeypatch):
    """The name is gone by then, so nobody could erase it again."""
    with monkeypatch.context() as crash:
        crash.setattr(SqliteCatalog, "compact", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.erase("secret")
    memory.close()
    folder = tmp_path / "memory"
    assert words_left(folder)
    export_memory(folder, tmp_path / "copy.tar")  # which takes no traces along
    import_memory(tmp_path / "copy.tar", tmp_path / "copy")
    assert words_left(tmp_path / "copy") == set()
    with assembly.open(folder, base=base) as again:
        again.append_text("Life goes on.", source="end")
        assert again.check().ok
    assert words_left(folder) == set()


def test_a_disk_that_fills_at_the_last_step_is_told_as_it_is(memory, tmp_path, base, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(Journal, "rewrite", lambda *arguments: (_ for _ in ()).throw(StorageFullError.of(28, "writing")))
        with pytest.raises(
            StorageFullError,
            match=r"secret is erased, but the catalog may still hold traces .* next change of the memory",
        ):
            memory.erase("secret")
    assert words_left(tmp_path / "memory")
    memory.append_text("Life goes on.", source="end")
    memory.close()
    assert words_left(tmp_path / "memory") == set()


def test_a_twin_keeps_the_bytes_and_is_named(memory):
    memory.ingest(text=f"The word is {SECRET}. " * 40, source="twin")
    assert memory.erase("secret").shared_with == ("twin",)
    assert memory.search("xylophone")
    assert memory.check().ok


def test_of_a_file_and_a_link_to_it_the_named_one_is_erased(memory, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "note.txt").write_text("A note, ingested under two names.")
    (tmp_path / "there").symlink_to(tmp_path / "here")
    file, link = tmp_path / "here" / "note.txt", tmp_path / "there" / "note.txt"
    memory.ingest([file, link])
    assert memory.erase(str(link)).shared_with == (file.as_uri(),)
    left = {source.uri for source in memory.sources()}
    assert file.as_uri() in left
    assert link.as_uri() not in left
    with pytest.raises(InvalidValueError, match="no source"):  # erasing again does not erase what it leads to
        memory.erase(str(link))


def test_another_process_forgets_with_its_next_refresh(memory, tmp_path, base):
    """Also what it has read of sealed segments, which nothing else would ever make it read again."""
    positions, nodes = np.arange(SEGMENT - 500, SEGMENT + 700), np.arange(2000, 2048)

    def seen(of):
        gists = of.reader.gist_batch(np.ones_like(nodes), nodes).vectors
        return [of.reader.tokens_at(positions), of.reader.token_batch([(SEGMENT - 500, SEGMENT)])[0], gists]

    with assembly.open(tmp_path / "memory", base=base) as reader:
        before = seen(reader)
        memory.erase("secret")
        reader.refresh()
        for old, new, wanted in zip(before, seen(reader), seen(memory), strict=True):
            np.testing.assert_array_equal(new, wanted)
            assert not np.array_equal(old, new)


def test_an_unknown_source_is_refused(memory):
    with pytest.raises(InvalidValueError, match="no source 'nobody'"):
        memory.erase("nobody")
    num_sources = len(memory.sources())
    with pytest.raises(InvalidValueError, match="source is None; give a name"):
        memory.erase(None)
    assert len(memory.sources()) == num_sources
