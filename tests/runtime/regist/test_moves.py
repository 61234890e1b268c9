"""A memory moves to another base: whole or not at all, from its raw sources, whatever happens on the way."""

from __future__ import annotations

import numpy as np
import pytest
from tests.runtime.regist.memories import UNICODE, contents

from megacontext.errors import (
    BaseMismatchError,
    InvalidValueError,
    MemoryLockedError,
    MemoryMovedError,
    MemoryReadOnlyError,
)
from megacontext.runtime import assembly
from megacontext.runtime.regist import drop_old, regist
from megacontext.runtime.transfer import export_memory, import_memory
from megacontext.storage.generations import Generation


def test_everything_is_there_again_in_tokens_of_the_other_base(folder, bases):
    before = contents(folder)
    report = regist(folder, base=bases[1])
    after = contents(folder)
    assert (report.num_sources, report.num_made, report.kept) == (len(before["sources"]),) * 2 + ((),)
    assert report.num_tokens == len(after["tokens"]) != report.old_num_tokens == len(before["tokens"])
    assert after["said"] == before["said"]
    assert after["quotes"] == before["quotes"]
    assert report.freed_bytes > 10_000
    assert not (folder / "catalog.sqlite").exists()
    assert not (folder / "arrays").exists()
    with assembly.open(folder, base=bases[1]) as memory:
        assert (memory.info.gister_name, memory.info.block_tokens) == ("mean", 8)
        assert memory.check(recompute_gists=True).ok
        assert memory.check().unused_bytes == 0
        [ids] = memory.provenance(*next((s.token_start, s.token_stop) for s in memory.sources() if s.uri == "ids"))
        assert (ids.text, ids.role) == ("appended as tokens only", "tool")
        [source] = {hit.uri for hit in memory.search("lazy dog has not")[:1]}
        assert source.endswith("00.txt")
        memory.append_text("more", source="later")
        assert memory.check(repair=True, recompute_gists=True).ok


@pytest.mark.parametrize("gister", ["mean", "extractive"])
def test_there_and_back_is_the_same_to_the_bit(tmp_path, folder, bases, gister):
    if gister != "mean":
        regist(folder, gister=gister)
    before = contents(folder)
    regist(folder, base=bases[1], gister="mean", block_tokens=16, gist_width=2)
    assert contents(folder)["tokens"] != before["tokens"]
    regist(folder, base=bases[0], gister=gister, block_tokens=8, gist_width=1)
    assert contents(folder) == before
    assert len(list((folder / "generations").iterdir())) == 1


def test_long_sources_come_in_pieces_and_give_the_same(tmp_path, bases, monkeypatch):
    """A text with extents of its own for each stretch of its sections, and one that is erased."""
    from megacontext.memory import encoding, retokenizing, source_texts

    for module in (encoding, retokenizing):
        monkeypatch.setattr(module, "EXTENT_TOKENS", 3000)
        monkeypatch.setattr(module, "BATCH_PIECES", 2)
    monkeypatch.setattr(retokenizing, "_LONG_TOKENS", 10_000)
    monkeypatch.setattr(source_texts, "LONG_BYTES", 10_000)
    text = "".join(f"line {number}, {UNICODE}" for number in range(2_000))
    with assembly.open(tmp_path / "m", base=bases[0], create=True, gister="mean", block_tokens=8) as memory:
        memory.ingest(text=text, source="long")
        memory.ingest(text=text[::-1], source="gone")
        memory.append_text("the end", source="end")
        memory.erase("gone")
        assert len(memory._parts.catalog.extents(0, memory.num_tokens)) > 10
    before = contents(tmp_path / "m")
    assert regist(tmp_path / "m", base=bases[1]).num_made == 3
    after = contents(tmp_path / "m")
    assert after["quotes"][0][0][-1] in text
    assert "".join(quote[-1] for quote in after["quotes"][0]) == text
    with assembly.open(tmp_path / "m") as memory:
        assert memory.check(recompute_gists=True).ok
        whole = memory.codec.encode(text[:5000]).token_ids[:1000]
        np.testing.assert_array_equal(memory.tokens(0, 1000), whole)
        again = assembly.open(tmp_path / "direct", base=bases[1], create=True, gister="mean", block_tokens=8)
        with again:
            again.ingest(text=text, source="long")
            num = again.num_tokens
            np.testing.assert_array_equal(memory.tokens(0, num), again.tokens(0, num))
    regist(tmp_path / "m", base=bases[0])
    assert contents(tmp_path / "m") == before


def test_other_gists_and_blocks_of_the_same_base(folder, bases):
    before = contents(folder)
    report = regist(folder, block_tokens=32, gist_width=2)
    assert (report.info.block_tokens, report.info.gist_width, report.info.gister_name) == (32, 2, "mean")
    after = contents(folder)
    assert after["tokens"] == before["tokens"]
    with pytest.raises(InvalidValueError, match="nothing to do"):
        regist(folder, base=bases[0], block_tokens=32, gist_width=2)


def test_what_is_added_meanwhile_is_in(folder, bases):
    """By a writer that is at work until the end: tokens that continue a source, new ones, labels."""
    added = []

    def add(progress):
        if len(added) < 2:  # the next call may come from the last step, when nobody may write
            with assembly.open(folder, base=bases[0]) as memory:
                for number in range(2):
                    memory.append(memory.codec.encode(f" and {number} more").token_ids, source="late", role="tool")
                    memory.ingest(folder.parent / "files" / "01.txt", labels={"new": "label"})
                    added.append(progress.num_tokens)

    regist(folder, base=bases[1], progress=add)
    with assembly.open(folder) as memory:
        assert memory.check(recompute_gists=True).ok
        last = memory.sources()[-1]
        assert memory.text(last.token_start, last.token_stop) == "".join(f" and {n} more" for n in range(len(added)))
        assert next(s for s in memory.sources() if s.uri.endswith("01.txt")).labels == {"team": "infra", "new": "label"}
    assert len(added) == 2


def test_a_writer_at_work_delays_the_last_step_only(folder, bases):
    with assembly.open(folder, base=bases[0]) as writer:
        writer.append_text("one", source="one")
        with pytest.raises(MemoryLockedError, match="being written"):
            regist(folder, base=bases[1])
        writer.append_text("two", source="two")
    assert contents(folder)["sources"][-1].uri == "two"
    with assembly.open(folder / "generations" / "1", read_only=True) as coming:
        assert coming.info.base_name == bases[1]
        assert coming.sources()[-1].uri == "one"
        assert coming.provenance(0, 10)[0].text.startswith("file 0: the")
        report = regist(folder, base=bases[1])
        assert report.num_made == 1
        assert coming.refresh()  # it counts by now
    assert contents(folder)["sources"][-1].uri == "two"


def test_readers_of_before_go_on_and_cannot_write(folder, bases):
    before = contents(folder)
    with assembly.open(folder, base=bases[0]) as reader:
        report = regist(folder, base=bases[1])
        assert report.kept == (str(folder),)
        assert reader.tokens(0, reader.num_tokens).tolist() == before["tokens"]
        assert reader.provenance(0, 10)[0].text
        with pytest.raises(MemoryMovedError, match="open it again"):
            reader.refresh()
        with pytest.raises(MemoryMovedError, match="open it again"):
            reader.append_text("lost?", source="lost")
        with assembly.open(folder) as memory:
            memory.append_text("found", source="found")
        assert drop_old(folder) == (0, (str(folder),))
    freed, kept = drop_old(folder)
    assert (freed > 10_000, kept) == (True, ())
    assert drop_old(folder) == (0, ())
    assert contents(folder)["sources"][-1].uri == "found"


@pytest.mark.parametrize("keep_old", [None, False])
def test_a_run_that_goes_on_keeps_what_the_first_was_asked_to_keep(folder, bases, keep_old):
    with assembly.open(folder, base=bases[0]) as writer:
        writer.append_text("one", source="one")
        with pytest.raises(MemoryLockedError):
            regist(folder, base=bases[1], keep_old=True)
    with pytest.raises(BaseMismatchError, match="--gist-width 1 --keep-old`"):
        regist(folder, base=bases[1], gister="extractive")
    with assembly.open(folder) as memory:
        stats = memory.inspect()
        assert (stats.older_bytes, stats.coming_bytes > 10_000) == (0, True)
    report = regist(folder, base=bases[1], keep_old=keep_old)
    assert report.kept == ((str(folder),) if keep_old is None else ())
    assert not (folder / "generations" / "1" / "keep-old").exists()


def test_the_old_one_is_kept_on_request(folder, bases):
    regist(folder, base=bases[1], keep_old=True)
    assert (folder / "catalog.sqlite").exists()
    with assembly.open(folder) as memory:
        assert memory.info.base_name == bases[1]
        assert memory.inspect().older_bytes == Generation(folder, 0).num_bytes() > 10_000
        report = memory.check(repair=True)
        assert (report.ok, report.removed_bytes) == (True, 0)
    regist(folder, base=bases[0], keep_old=True)
    with assembly.open(folder / "generations" / "1", read_only=True) as memory:
        assert memory.check(recompute_gists=True).ok
        assert memory.info.base_name == bases[1]
    with pytest.raises(MemoryReadOnlyError, match="read_only=True"):
        assembly.open(folder / "generations" / "1")
    with assembly.open(folder) as memory:
        assert memory.inspect().older_bytes == sum(Generation(folder, number).num_bytes() for number in (0, 1))
    drop_old(folder)
    assert [path.name for path in (folder / "generations").iterdir()] == ["2"]
    with assembly.open(folder) as memory:
        report = memory.check(recompute_gists=True)
        assert (report.ok, report.unused_bytes, memory.inspect().older_bytes) == (True, 0, 0)


def test_tokens_that_grew_after_the_last_step_failed(folder, bases, monkeypatch):
    """They were made already, and are others now."""
    from megacontext.storage.generations import Generation

    with assembly.open(folder) as memory:
        memory.append(memory.codec.encode("first half").token_ids, source="halves")
    with monkeypatch.context() as patched:
        patched.setattr(Generation, "finish", lambda self, **how: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            regist(folder, base=bases[1])
    with assembly.open(folder) as memory:
        memory.append(memory.codec.encode(", second half").token_ids, source="halves")
    report = regist(folder, base=bases[1])
    assert report.num_made == report.num_sources
    with assembly.open(folder) as memory:
        last = memory.sources()[-1]
        assert memory.text(last.token_start, last.token_stop) == "first half, second half"


def test_a_moved_memory_is_exported_and_imported(folder, bases, tmp_path):
    regist(folder, base=bases[1], keep_old=True)
    export_memory(folder, tmp_path / "m.tar")
    import_memory(tmp_path / "m.tar", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    with assembly.open(tmp_path / "copy") as memory:
        assert memory.check(recompute_gists=True).ok
    assert (tmp_path / "copy" / "catalog.sqlite").exists()
    assert not (tmp_path / "copy" / "generations").exists()


def test_a_moved_memory_is_no_source(folder, bases, tmp_path):
    regist(folder, base=bases[1])
    with assembly.open(tmp_path / "other", base=bases[0], create=True, gister="mean") as other:
        report = other.ingest(tmp_path)
        assert all("generations" not in source.uri and "raw" not in source.uri for source in other.sources())
        assert report.num_sources == 15


def test_an_empty_memory_moves_too(tmp_path, bases):
    assembly.open(tmp_path / "m", base=bases[0], create=True, gister="mean").close()
    assert regist(tmp_path / "m", base=bases[1]).num_tokens == 0
    with assembly.open(tmp_path / "m") as memory:
        memory.append_text("something", source="text")
        assert memory.info.base_name == bases[1]


def test_what_is_said_of_a_source_while_it_moves_is_taken_along(folder, bases, monkeypatch):
    """Said between the copy of the source and the last step, as an ingest of the unchanged source does."""
    from megacontext.memory.regist import Regist

    copy = Regist.copy

    def and_meanwhile(self, *, is_last=False):
        copy(self, is_last=is_last)
        if not is_last:
            with assembly.open(folder) as other, other._parts.catalog.write() as writer:
                writer.describe_source(1, role="narrator", author="Ada", licence="CC0")

    monkeypatch.setattr(Regist, "copy", and_meanwhile)
    regist(folder, base=bases[1])
    with assembly.open(folder, read_only=True) as memory:
        source = memory.sources()[0]
        assert (source.role, source.author, source.licence) == ("narrator", "Ada", "CC0")
        assert memory.check().ok
