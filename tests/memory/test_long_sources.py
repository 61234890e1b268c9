"""Files that are read in pieces: the same memory as when they are read whole, and nothing of one that fails."""

from __future__ import annotations

import itertools
import json
import logging
import time
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.documents import loading
from megacontext.documents.document import Section
from megacontext.errors import (
    InvalidValueError,
    NotTextError,
    SourceError,
    StorageFullError,
    UnreadableSourceError,
)
from megacontext.memory import drafting, encoding, source_texts
from megacontext.memory.encoding import PIECE_CHARS, PieceCutter, encode_sections, piece_bounds

WORDS = ["needle ", "ö", "\n", "x" * 9000, "\n\n", "🏳️‍🌈 ", " ", "hay line\n" * 900]


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1), cuts=st.lists(st.integers(0, 10**6)))
def test_pieces_are_the_same_however_the_text_arrives(words, cuts):
    text = "".join(words)
    borders = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    cutter = PieceCutter()
    pieces = [piece for start, stop in itertools.pairwise(borders) for piece in cutter.add(text[start:stop])]
    assert pieces + cutter.finish() == [text[start:stop] for start, stop in piece_bounds(text, 0, len(text))]


def texts():
    return st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map("".join).filter(str.strip)


@settings(max_examples=25, deadline=None)
@given(long=texts(), before=texts(), encoding_name=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_both_ways_give_the_same_memory(kit, tmp_path_factory, long, before, encoding_name):
    folder = tmp_path_factory.mktemp("in")
    (folder / "a.txt").write_text(before, encoding="utf-8")
    (folder / "b.md").write_bytes(long.encode(encoding_name))
    (folder / "c.py").write_text(before[::-1], encoding="utf-8")
    found = []
    for stream_bytes in (10**9, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "STREAM_BYTES", stream_bytes)
            patch.setattr(loading.OpenFile.pieces, "__defaults__", (1000,))
            patch.setattr(drafting, "BATCH_PIECES", 2)
            memory = kit.make_memory(kit.ContextGister())
            memory.append(np.arange(100) % 256)
            report = memory.ingest(folder, labels={"a": "b"})
            assert (report.num_sources, report.num_tokens) == (3, memory.num_tokens - 100)
            assert memory.ingest(folder).num_unchanged == 3
        digests = [(source.raw_digest, source.text_digest, source.num_bytes) for source in memory.sources()]
        blobs = memory._parts.blobs
        found.append((kit.contents(memory), digests, list(blobs.digests()), memory._parts.catalog.segments()))
        assert memory.check(recompute_gists=True).ok
    assert found[0] == found[1]


@pytest.mark.parametrize("stream_bytes", [1, 10**9])
@pytest.mark.parametrize("encoding_name", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_open_file_is_read_as_one_with_a_path(kit, tmp_path, in_pieces, monkeypatch, stream_bytes, encoding_name):
    monkeypatch.setattr(loading, "STREAM_BYTES", stream_bytes)
    path = tmp_path / "long.txt"
    path.write_bytes(("hay, wörter and more\n" * 2000).encode(encoding_name))
    memory, other = kit.make_memory(), kit.make_memory()
    other.ingest(path)
    seen = []
    with path.open("rb") as file:
        file.seek(99)  # wherever it is: the whole of it is meant
        report = memory.ingest(text=file, source="{ode}", labels={"a": "b"}, progress=seen.append)
        assert (report.num_sources, report.num_tokens) == (1, other.num_tokens)
        assert memory.ingest(text=file, source="{ode}").num_unchanged == 1
        assert not file.closed
    assert (seen[-1].num_bytes, seen[-1].found_bytes) == (path.stat().st_size,) * 2
    source, like = memory.sources()[0], other.sources()[0]
    assert (source.uri, source.kind, source.labels, source.version) == ("{ode}", "text", {"a": "b"}, 1)
    for field in ("raw_digest", "text_digest", "num_bytes"):
        assert getattr(source, field) == getattr(like, field)
    assert memory.tokens(0, memory.num_tokens).tolist() == other.tokens(0, other.num_tokens).tolist()
    assert memory.check(recompute_gists=True).ok


@pytest.mark.parametrize("stream_bytes", [1, 10**9])
def test_an_open_file_that_is_no_text_is_refused_by_its_name(kit, tmp_path, in_pieces, monkeypatch, stream_bytes):
    monkeypatch.setattr(loading, "STREAM_BYTES", stream_bytes)
    contents = {
        b"hay " * 5000 + b"\0": "notes has a zero character at 20000",
        b"hay " * 5000 + b"\xe9 ": "notes is not UTF-8: byte 0xe9 at 20000",
        b"\x89PNG" + b"hay" * 5000: "notes is binary",
        b" " * 5000: "notes has no text in its 5000 bytes",
        b"": "notes is empty",
    }
    memory = kit.make_memory()
    for content, message in contents.items():
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as file, pytest.raises(SourceError, match=message):
            memory.ingest(text=file, source="notes")
    assert memory.num_tokens == 0
    for nothing in (BytesIO(b"hay"), file):
        with pytest.raises(InvalidValueError, match="without an open file"):
            memory.ingest(text=nothing)
    with (tmp_path / "file").open("rb") as file, pytest.raises(InvalidValueError, match="both paths"):
        memory.ingest("here", text=file)


def test_extents_of_a_long_section_end_where_pieces_do(kit, monkeypatch):
    """So that each can be encoded again by itself."""
    text = "word and wörd\n" * 20_000
    whole, (extent,) = encode_sections(text, [Section(char_start=0, char_stop=len(text))], kit.ByteCodec())
    monkeypatch.setattr(encoding, "EXTENT_TOKENS", 3 * PIECE_CHARS)
    tokens, extents = encode_sections(text, [Section(char_start=0, char_stop=len(text))], kit.ByteCodec())
    assert tokens.tolist() == whole.tolist()
    assert len(extents) > 3
    assert [part.token_start for part in extents] == [0, *(part.token_stop for part in extents[:-1])]
    for part in extents:
        piece = text.encode()[part.byte_start : part.byte_stop].decode()
        again, _ = encode_sections(piece, [Section(char_start=0, char_stop=len(piece))], kit.ByteCodec())
        assert again.tolist() == tokens[part.token_start : part.token_stop].tolist()
        assert len(part.anchors) == -(-(part.token_stop - part.token_start) // 32)
    assert extents[-1].byte_stop == extent.byte_stop


def test_quotations_and_repair_of_a_source_of_several_extents(kit, tmp_path, in_pieces, monkeypatch):
    monkeypatch.setattr(encoding, "EXTENT_TOKENS", 2 * PIECE_CHARS)
    monkeypatch.setattr(source_texts, "LONG_BYTES", 100)
    path = tmp_path / "long.txt"
    path.write_text("".join(f"line {number} of hay\n" for number in range(9000)))
    with kit.open_folder(tmp_path / "m") as memory:
        memory.ingest(path)
        quotes = memory.provenance(0, memory.num_tokens)
        assert len(quotes) > 3
        assert "".join(quote.text for quote in quotes) == path.read_text()
        assert [quote.line_start for quote in quotes[1:]] == [quote.line_stop + 1 for quote in quotes[:-1]]
        for start in range(0, memory.num_tokens - 50, 30_011):
            (quote,) = memory.provenance(start, start + 40)
            assert quote.text == path.read_text()[start : start + 40]
            assert quote.line_start == path.read_text().count("\n", 0, start) + 1
        for shard in (tmp_path / "m" / "arrays" / "lod0").rglob("c/7*"):
            shard.unlink()
        assert memory.check(repair=True).ok


def test_a_long_text_that_was_not_kept_in_frames_is_read_once_and_not_for_every_message(kit, tmp_path, monkeypatch):
    """A large chat export: it is parsed whole, so its text is one frame, and each message is an extent."""
    monkeypatch.setattr(source_texts, "LONG_BYTES", 100)
    messages = [{"role": "user", "content": f"message {number} of a long talk"} for number in range(60)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, messages)))
    with kit.open_folder(tmp_path / "m") as memory:
        memory.ingest(tmp_path / "log.jsonl")
        (source,) = memory.sources()
        texts, get, num_read = source_texts.SourceTexts(memory._parts), memory._parts.blobs.get, []
        monkeypatch.setattr(memory._parts.blobs, "get", lambda digest: num_read.append(digest) or get(digest))
        extents = [extent for _, extent in memory._parts.catalog.extents(0, memory.num_tokens)]
        assert len(extents) == 60
        assert b"".join(texts.of(source, extent) for extent in extents).decode().count("of a long talk") == 60
        assert num_read == [source.text_digest]


def test_a_bad_byte_far_behind_is_found_before_anything_is_done(kit, tmp_path, in_pieces):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.txt").write_bytes(b"hay and " * 5000 + b"caf\xe9" + b" hay" * 5000)
    (folder / "zero.txt").write_bytes(b"hay and " * 5000 + b"\0")
    (folder / "blank.txt").write_bytes(b"  \n" * 5000)
    (folder / "good.txt").write_bytes(b"hay and " * 5000)
    memory = kit.make_memory()
    report = memory.ingest(folder)
    assert report.num_sources == 1
    assert len(report.failures) == 3
    assert "byte 0xe9 at 40003;" in report.failures[0].reason
    assert "zero character at 40000;" in report.failures[2].reason
    with pytest.raises(NotTextError, match="0xe9 at 40003"):
        memory.ingest(folder / "bad.txt")


def test_a_file_that_changes_amid_its_ingest_leaves_nothing(kit, tmp_path, in_pieces):
    """Its first tokens are in shards already, whose places the next source takes, gists included."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("first hay. " * 10_000)
    (folder / "b.txt").write_text("second hay. " * 10_000)
    others = kit.make_memory(kit.ContextGister())
    others.ingest(folder / "b.txt")

    def change(progress):
        if progress.uri.endswith("a.txt") and progress.num_tokens > 50_000:
            (folder / "a.txt").write_text("other hay. " * 10_000)

    memory = kit.make_memory(kit.ContextGister())
    report = memory.ingest(folder, progress=change)
    assert [failure.uri[-5:] for failure in report.failures] == ["a.txt"]
    assert "changed while it was read" in report.failures[0].reason
    assert (report.num_sources, report.num_tokens) == (1, 120_000)
    assert kit.contents(memory) == kit.contents(others)
    assert memory.check(recompute_gists=True).ok
    with pytest.raises(UnreadableSourceError, match="changed"):
        memory.ingest(
            folder / "a.txt", progress=lambda progress: (folder / "a.txt").write_text(f"{progress.num_bytes} " * 999)
        )
    assert kit.contents(memory) == kit.contents(others)


def test_a_full_disk_amid_a_long_file(kit, tmp_path, in_pieces, caplog):
    caplog.set_level(logging.CRITICAL)
    path = tmp_path / "long.txt"
    path.write_text("much hay. " * 20_000)
    arrays = kit.MemoryArrays(capacity_bytes=300_000)
    memory = kit.make_memory(arrays=arrays)
    memory.append([1, 2, 3])
    before = kit.contents(memory)
    with pytest.raises(StorageFullError):
        memory.ingest(path)
    assert kit.contents(memory) == before
    arrays.capacity_bytes = None
    assert memory.ingest(path).num_tokens == 200_000
    assert memory.check(recompute_gists=True).ok


def test_progress_within_a_long_source_counts_gists(kit, tmp_path, in_pieces):
    (tmp_path / "long.txt").write_text("much hay. " * 20_000)
    seen = []

    def look(progress):
        seen.append(progress)
        time.sleep(0.01)  # on a busy machine, too, the other thread gets its turn

    kit.make_memory().ingest(tmp_path / "long.txt", progress=look)
    assert any(0 < one.num_gist_tokens <= one.num_tokens for one in seen if one.num_bytes < one.found_bytes)


def test_other_formats_are_read_whole_up_to_a_limit(kit, tmp_path, in_pieces, monkeypatch):
    monkeypatch.setattr(loading, "WHOLE_BYTES", 1024)
    (tmp_path / "page.html").write_text("<p>hay</p>" * 200)
    (tmp_path / "chat.jsonl").write_text('{"role": "user", "content": "hay"}\n' * 100)
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 500)
    report = kit.make_memory().ingest(tmp_path)
    assert [failure.uri.rsplit("/")[-1] for failure in report.failures] == ["chat.jsonl", "page.html"]
    assert "2.0 KiB; of this format a file is read whole, up to 1.0 KiB: split it" in report.failures[1].reason
    assert report.num_sources == 1  # rows that are no messages are text like any other
