"""A memory moves to another base: whole or not at all, from its raw sources, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from megacontext.errors import (
    BaseMismatchError,
    BaseModelError,
    CorruptionError,
    InvalidTokensError,
    InvalidValueError,
    MemoryLockedError,
    MemoryMovedError,
    MemoryNotFoundError,
    MemoryReadOnlyError,
    SchemaVersionError,
    UnknownNameError,
)
from megacontext.runtime import assembly
from megacontext.runtime.regist import drop_old, regist
from megacontext.runtime.transfer import export_memory, import_memory
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder

CHAT = (
    '{"role": "user", "content": "Where is the fox?", "time": 10}\n'
    '{"role": "assistant", "content": "The fox jumps over the lazy dog.", "time": 11}\n'
)
PAGE = "<html><head><title>Foxes</title></head><body><h1>Foxes</h1><p>The dog did not bark.</p></body></html>"
UNICODE = "Grüße, 狐狸! 🦊 <|endoftext|> and \u200d odd \x7f things.\n"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Two model folders whose tokenizers cut the same text into different tokens."""
    folder = tmp_path_factory.mktemp("bases")
    first = write_model_folder(folder / "a", seed=1)
    second = write_model_folder(folder / "b", "llama", seed=2)
    tiny_tokenizer(270).save(str(second / "tokenizer.json"))
    return str(first), str(second)


@pytest.fixture
def folder(tmp_path, bases):
    """Every kind of source: files of all formats, versions, turns, tokens, something erased."""
    files = tmp_path / "files"
    files.mkdir()
    for number in range(12):
        (files / f"{number:02}.txt").write_text(f"file {number}: the quick brown fox, {UNICODE}" * 40)
    (files / "chat.jsonl").write_text(CHAT)
    (files / "page.html").write_text(PAGE)
    (files / "code.py").write_text("def answer(question: str) -> str:\n    return question.strip()\n" * 30)
    with assembly.open(tmp_path / "m", base=bases[0], create=True, gister="mean", block_tokens=8) as memory:
        memory.ingest(files, labels={"team": "infra"}, role="user", author="Ada", licence="MIT")
        (files / "00.txt").write_text("file 0 has changed; the lazy dog has not.\n" * 50)
        memory.ingest(files / "00.txt")
        memory.append_text("What did the fox do?", source="talk", role="user", labels={"turn": "1"})
        memory.append_text("It jumped over the dog.", source="talk", role="assistant")
        memory.append(memory.codec.encode("appended as tokens only").token_ids, source="ids", role="tool")
        memory.append_text("the secret is mauve", source="secret")
        memory.append_text("the end", source="end")
        memory.erase("secret")
    return tmp_path / "m"


def contents(folder, **how):
    """All that a memory says, and what of it may not depend on the base."""
    with assembly.open(folder, read_only=True, **how) as memory:
        num = memory.num_tokens
        levels = range(1, memory.num_levels)
        num_nodes = [memory.tree.num_nodes(level, num) for level in levels]
        sources = memory.sources()
        quotes = [memory.provenance(source.token_start, source.token_stop) for source in sources]
        return {
            "tokens": memory.tokens(0, num).tolist(),
            "gists": [memory.gists(level, 0, n).tobytes() for level, n in zip(levels, num_nodes, strict=True)],
            "sources": sources,
            "extents": [
                (source.source_id, extent.token_start, extent.token_stop, extent.anchors.tolist())
                for source, extent in memory._parts.catalog.extents(0, num)
            ],
            "hits": memory.search_hits("fox dog", limit=100),
            "said": [
                dataclasses.replace(source, token_start=0, token_stop=0, num_bytes=0) for source in sources
            ],
            "quotes": [
                [
                    (q.uri, q.version, q.title, q.role, q.time, q.byte_start, q.byte_stop, q.line_start, q.text)
                    for q in found
                    if q.kind != "tokens"
                ]
                for found in quotes
            ],
        }  # fmt: skip


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


def test_the_old_one_is_kept_on_request(folder, bases):
    regist(folder, base=bases[1], keep_old=True)
    assert (folder / "catalog.sqlite").exists()
    with assembly.open(folder) as memory:
        assert memory.info.base_name == bases[1]
        report = memory.check(repair=True)
        assert (report.ok, report.removed_bytes) == (True, 0)
    regist(folder, base=bases[0], keep_old=True)
    with assembly.open(folder / "generations" / "1", read_only=True) as memory:
        assert memory.check(recompute_gists=True).ok
        assert memory.info.base_name == bases[1]
    with pytest.raises(MemoryReadOnlyError, match="read_only=True"):
        assembly.open(folder / "generations" / "1")
    drop_old(folder)
    assert [path.name for path in (folder / "generations").iterdir()] == ["2"]
    with assembly.open(folder) as memory:
        report = memory.check(recompute_gists=True)
        assert (report.ok, report.unused_bytes) == (True, 0)


def has_text(folder, text):
    """Whether a blob, or any token of any generation, still gives a text."""
    from megacontext.storage.blobs import FileBlobs

    blobs = FileBlobs(folder)
    if any(text.encode() in blobs.get(digest) for digest in blobs.digests()):
        return True
    places = [folder, *(folder / "generations").glob("*")]
    for place in places:
        if (place / "catalog.sqlite").exists():
            with assembly.open(place, read_only=True) as memory:
                found = [result.text for result in memory.search(text)]
                if any(text in said for said in (memory.text(0, memory.num_tokens), *found)):
                    return True
    return False


def test_erasing_reaches_what_was_and_what_is_to_come(folder, bases):
    with assembly.open(folder) as memory:
        memory.append_text("magenta zebra", source="zebra")
        memory.append_text("the end", source="end")
    regist(folder, base=bases[1], keep_old=True)
    with assembly.open(folder) as writer:
        writer.append_text("one", source="one")
        with pytest.raises(MemoryLockedError):
            regist(folder, base=bases[0], gister="extractive", keep_old=True)
    assert has_text(folder, "magenta zebra")
    assert len(list((folder / "generations").iterdir())) == 2
    with assembly.open(folder) as memory:
        memory.erase("zebra")
        assert memory.check(recompute_gists=True).ok
    assert not has_text(folder, "magenta zebra")
    for place in (folder, folder / "generations" / "2"):
        with assembly.open(place, read_only=True) as memory:
            assert memory.check(recompute_gists=True).ok
            assert not [source for source in memory.sources() if source.uri == "zebra"]
    regist(folder, base=bases[0], gister="extractive")
    assert not has_text(folder, "magenta zebra")
    with assembly.open(folder) as memory:
        assert memory.check(recompute_gists=True).ok


def test_what_cannot_be_erased_from_is_removed(folder, bases, tmp_path, caplog):
    """Its base is gone."""
    with assembly.open(folder) as memory:
        memory.append_text("magenta zebra", source="zebra")
    gone = shutil.copytree(bases[1], tmp_path / "gone")
    regist(folder, base=str(gone))
    regist(folder, base=bases[0], keep_old=True)
    shutil.rmtree(gone)
    with assembly.open(folder) as memory:
        memory.erase("zebra")
        assert memory.check().ok
    assert "cannot be erased from" in caplog.text
    assert [path.name for path in (folder / "generations").iterdir()] == ["2"]
    assert not has_text(folder, "magenta zebra")


def test_no_erasure_amid_a_move(folder, bases):
    refused = []

    def erase(progress):
        if not refused:
            with assembly.open(folder, base=bases[0]) as memory:
                with pytest.raises(MemoryLockedError, match="moved to another base"):
                    memory.erase("talk")
                refused.append(memory.check(repair=True))  # and it removes nothing that the other one needs

    regist(folder, base=bases[1], progress=erase)
    assert refused[0].ok
    with assembly.open(folder) as memory:
        assert memory.check(recompute_gists=True).ok
        assert memory.erase("talk").num_sources == 2


def test_a_source_that_was_erased_in_one_alone_begins_anew(folder, bases, monkeypatch):
    """As if it had failed after half of it."""
    with assembly.open(folder, base=bases[0]) as writer:
        writer.append_text("one", source="one")
        with pytest.raises(MemoryLockedError):
            regist(folder, base=bases[1])
    shutil.move(folder / "generations", folder.parent / "aside")
    with assembly.open(folder) as memory:
        memory.erase("talk")
    shutil.move(folder.parent / "aside", folder / "generations")
    report = regist(folder, base=bases[1])
    assert report.num_made == report.num_sources
    assert not has_text(folder, "What did the fox")


def test_tokens_that_no_text_gives_are_refused_before_anything_is_written(folder, bases):
    with assembly.open(folder) as memory:
        letters = [memory.codec.encode(letter).token_ids for letter in "quick"]
        memory.append(np.concatenate(letters), source="raw ids")
    with pytest.raises(InvalidTokensError, match=r"5 of raw ids; .*--lossy-tokens"):
        regist(folder, base=bases[1])
    assert not (folder / "generations").exists()
    regist(folder, base=bases[1], lossy_tokens=True)
    with assembly.open(folder) as memory:
        last = memory.sources()[-1]
        assert (last.uri, memory.text(last.token_start, last.token_stop)) == ("raw ids", "quick")
        assert memory.check(recompute_gists=True).ok


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


def test_an_unfinished_move_to_another_base_is_named(folder, bases):
    with assembly.open(folder, base=bases[0]) as writer:
        writer.append_text("one", source="one")
        with pytest.raises(MemoryLockedError):
            regist(folder, base=bases[1])
    with pytest.raises(BaseMismatchError) as caught:
        regist(folder, base=bases[1], gister="extractive")
    assert "mean gists" in str(caught.value)
    assert "extractive gists" in str(caught.value)
    assert "--restart" in str(caught.value)
    assert regist(folder, base=bases[1], gister="extractive", restart=True).info.gister_name == "extractive"


def test_the_error_of_another_base_names_this_command(folder, bases):
    with pytest.raises(BaseMismatchError) as caught:
        assembly.open(folder, base=bases[1])
    assert f"`megacontext regist {folder} --base {bases[1]}`" in str(caught.value)


def test_a_lost_text_names_its_source_and_nothing_is_lost(folder, bases):
    before = contents(folder)
    with assembly.open(folder) as memory:
        page = next(source for source in memory.sources() if source.uri.endswith("page.html"))
    lost = folder / "raw" / page.text_digest[:2] / f"{page.text_digest}.zst"
    kept = lost.read_bytes()
    for damage in (lost.unlink, lambda: lost.write_bytes(kept[:-9])):
        damage()
        with pytest.raises(CorruptionError, match=r"page\.html cannot be read.*check --repair"):
            regist(folder, base=bases[1])
    with assembly.open(folder) as memory:
        assert memory.check(repair=True).ok
    assert contents(folder) == before
    regist(folder, base=bases[1])


def test_bad_input(folder, bases, tmp_path):
    before = contents(folder)
    with pytest.raises(MemoryNotFoundError):
        regist(tmp_path / "none", base=bases[1])
    with pytest.raises(MemoryNotFoundError):
        drop_old(tmp_path / "none")
    with pytest.raises((BaseModelError, UnknownNameError, InvalidValueError)):
        regist(folder, base=str(tmp_path / "no-model"))
    with pytest.raises(InvalidValueError, match="nothing to do"):
        regist(folder, base=bases[0])
    with pytest.raises(UnknownNameError):
        regist(folder, base=bases[1], gister="none")
    with pytest.raises(InvalidValueError):
        regist(folder, base=bases[1], block_tokens=8, gist_width=8)
    assert not (folder / "generations").exists()
    assert contents(folder) == before


def test_a_newer_schema_is_refused(folder, bases):
    import sqlite3

    connection = sqlite3.connect(folder / "catalog.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaVersionError, match="upgrade megacontext"):
        regist(folder, base=bases[1])


def test_one_move_at_a_time(folder, bases):
    seen = []

    def again(progress):
        if not seen:
            with pytest.raises(MemoryLockedError, match="moved to another base") as caught:
                regist(folder, base=bases[1])
            seen.append(str(caught.value))

    regist(folder, base=bases[1], progress=again)
    assert seen


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


def test_a_move_that_was_decided_before_another_ended_is_refused(folder, bases, monkeypatch):
    """It would take the generation that counts for what an earlier run left."""
    from megacontext.runtime import regist as module

    look = module.refuse_lost_commits

    def meanwhile(place):
        monkeypatch.setattr(module, "refuse_lost_commits", look)
        regist(folder, base=bases[1])
        return look(place)

    monkeypatch.setattr(module, "refuse_lost_commits", meanwhile)
    with pytest.raises(MemoryMovedError, match="just now"):
        regist(folder, base=bases[1], gister="extractive", restart=True)
    with assembly.open(folder) as memory:
        assert (memory.info.base_name, memory.info.gister_name) == (bases[1], "mean")
        assert memory.check().ok
    regist(folder, base=bases[1], gister="extractive")
