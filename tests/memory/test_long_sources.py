"""Files that are read in pieces: the same memory as when they are read whole, and nothing of one that fails."""

from __future__ import annotations

import itertools
import logging
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.documents import loading
from megacontext.documents.document import Section
from megacontext.errors import (
    InvalidValueError,
    MemoryLockedError,
    NotTextError,
    SourceError,
    StorageFullError,
    UnreadableSourceError,
)
from megacontext.memory import drafting, encoding, source_texts
from megacontext.memory.encoding import PIECE_CHARS, PieceCutter, encode_sections, piece_bounds

HERE = Path(__file__).parent
WORDS = ["needle ", "ö", "\n", "x" * 9000, "\n\n", "🏳️‍🌈 ", " ", "hay line\n" * 900]


@pytest.fixture
def in_pieces(monkeypatch):
    """Every plain file comes in many small pieces."""
    monkeypatch.setattr(loading, "STREAM_BYTES", 1)
    monkeypatch.setattr(loading.OpenFile.pieces, "__defaults__", (1000,))
    monkeypatch.setattr(drafting, "BATCH_PIECES", 2)


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


INGEST = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from doubles import ContextGister, open_folder
from megacontext.documents import loading
from megacontext.memory import drafting
loading.STREAM_BYTES = 100_000
loading.OpenFile.pieces.__defaults__ = (10_000,)
drafting.BATCH_PIECES = 4
with open_folder(Path(sys.argv[1]), ContextGister(), segment_tokens=8192) as memory:
    show = lambda progress: print(progress.num_tokens, flush=True)
    print(memory.ingest(sys.argv[2], progress=show), flush=True)
"""


@pytest.mark.parametrize("kill_at_tokens", [1, 60_000, 180_000])
def test_a_kill_amid_an_ingest_costs_what_was_not_finished(kit, tmp_path, kill_at_tokens):
    """Of many small files and a long one; the next run takes up where this one died, and nothing is left over."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(40):
        (folder / f"a{number:02}.txt").write_text(f"file {number} has hay. " * 100)
    (folder / "b.txt").write_text("".join(f"line {number} of the long one\n" for number in range(8_000)))
    (folder / "c.txt").write_text("the last one")

    def run(memory, kill_at=None):
        process = subprocess.Popen(
            [sys.executable, "-c", INGEST, str(memory), str(folder)], stdout=subprocess.PIPE, text=True
        )
        with process:
            for line in process.stdout:
                if kill_at is not None and int(line) >= kill_at:
                    process.send_signal(signal.SIGKILL)
                    return None
        assert process.returncode == 0
        return line

    assert "num_sources=42" in run(tmp_path / "undisturbed")
    run(tmp_path / "m", kill_at_tokens)
    with kit.open_folder(tmp_path / "m", kit.ContextGister()) as memory:
        finished = [source.uri.rsplit("/")[-1] for source in memory.sources()]
        assert "c.txt" not in finished
        assert memory.check(recompute_gists=True).ok
    report = run(tmp_path / "m")
    assert f"num_sources={42 - len(finished)}, " in report
    assert f"num_unchanged={len(finished)}" in report
    with (
        kit.open_folder(tmp_path / "m", kit.ContextGister()) as memory,
        kit.open_folder(tmp_path / "undisturbed", kit.ContextGister()) as undisturbed,
    ):
        assert kit.contents(memory) == kit.contents(undisturbed)
        assert memory.check(recompute_gists=True).ok
    assert files(tmp_path / "m") == files(tmp_path / "undisturbed")


LONG_TEXT = "".join(f"line {number} of the long one\n" for number in range(16_000))
KILLED_INGEST = INGEST.replace(
    "show = ", "import os; show = lambda p: p.num_tokens < 250_000 or os.kill(os.getpid(), 9) #"
)


@pytest.fixture
def killed(kit, tmp_path):
    """A small memory in which a long ingest was killed; what it holds, and the bytes of its files before that."""
    folder, path = tmp_path / "m", tmp_path / "long.txt"
    with kit.open_folder(folder, kit.ContextGister(), segment_tokens=8192) as memory:
        memory.append(np.arange(20_000) % 256, source="before")
        memory.ingest(text="a needle", source="small")
        memory.store_gists()
        before = kit.contents(memory)
    num_bytes = {name: data_bytes(folder, name) for name in ("arrays", "raw")}
    path.write_text(LONG_TEXT)
    died = subprocess.run([sys.executable, "-c", KILLED_INGEST, str(folder), str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert data_bytes(folder, "arrays") > num_bytes["arrays"] + 100_000
    return folder, path, before, num_bytes


def data_bytes(folder, *below):
    files = [path for name in below or ("arrays", "raw") for path in (folder / name).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def test_a_repair_removes_what_a_killed_ingest_left(kit, killed):
    folder, _, before, num_bytes = killed
    with kit.open_folder(folder, kit.ContextGister(), read_only=True) as reader:
        report = reader.check(recompute_gists=True)
        assert report.ok
        assert report.unused_bytes == data_bytes(folder) - sum(num_bytes.values())
        with kit.open_folder(folder, kit.ContextGister()) as memory:
            mended = memory.check(repair=True)
            assert (mended.damages, mended.repaired, mended.unused_bytes) == ((), (), 0)
            assert mended.removed_bytes == report.unused_bytes
            assert memory.check(repair=True).removed_bytes == 0
            assert kit.contents(memory) == before
        assert data_bytes(folder) == sum(num_bytes.values())
        assert kit.contents(reader) == before
        report = reader.check(recompute_gists=True)
        assert (report.ok, report.unused_bytes) == (True, 0)


def test_a_repair_also_cuts_the_log_of_the_catalog(kit, killed):
    folder, *_ = killed
    log = folder / "catalog.sqlite-wal"
    log.write_bytes(bytes(100_000))  # a longer ingest leaves megabytes of a transaction
    with kit.open_folder(folder, kit.ContextGister()) as memory:
        assert memory.check(repair=True).removed_bytes
    assert not log.exists()
    with kit.open_folder(folder, kit.ContextGister(), read_only=True) as memory:
        assert memory.check(recompute_gists=True).ok


def test_the_next_change_removes_what_a_killed_ingest_left(kit, killed):
    """Not only what it would have written over; and the ingest that was killed is as if for the first time. Blobs
    that were complete wait for a repair."""
    folder, path, before, num_bytes = killed
    with (
        kit.open_folder(folder, kit.ContextGister(), read_only=True) as reader,
        kit.open_folder(folder, kit.ContextGister()) as memory,
    ):
        assert kit.contents(reader) == before
        memory.append([1, 2, 3])
        assert data_bytes(folder, "arrays") == num_bytes["arrays"]
        assert not list((folder / "raw").glob(".*"))
        seen = kit.contents(reader)
        assert [seen[what] for what in ("tokens", "gists", "hits")] == [
            before[what] for what in ("tokens", "gists", "hits")
        ]
        memory.ingest(path)
        assert memory.text(memory.num_tokens - len(LONG_TEXT), memory.num_tokens) == LONG_TEXT
        report = memory.check(recompute_gists=True, repair=True)
        assert report.ok
        assert report.removed_bytes < 1000  # a blob
        reader.refresh()
        assert kit.contents(reader) == kit.contents(memory)


def test_what_is_half_removed_is_removed_by_the_next(kit, killed, monkeypatch):
    folder, _, before, num_bytes = killed
    unlinked, unlink = [], Path.unlink

    def die(path, **how):
        unlinked.append(path)
        if len(unlinked) > 20:
            raise KeyboardInterrupt
        unlink(path, **how)

    with kit.open_folder(folder, kit.ContextGister()) as memory:
        monkeypatch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            memory.append([1])
        monkeypatch.undo()
    assert data_bytes(folder, "arrays") > num_bytes["arrays"]
    with kit.open_folder(folder, kit.ContextGister()) as memory:
        assert kit.contents(memory) == before
        memory.append([1, 2, 3])
        assert data_bytes(folder, "arrays") == num_bytes["arrays"]
        assert not list((folder / "raw").glob(".*"))


def test_a_damaged_catalog_has_nothing_removed(kit, killed):
    """It may have been what said that something is in use."""
    folder, _, before, _ = killed
    num_bytes = data_bytes(folder)
    for file in folder.glob("catalog.sqlite*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with kit.open_folder(folder, kit.ContextGister()) as memory:
        assert memory.check().unused_bytes == 0
        report = memory.check(repair=True)
        assert (report.ok, report.removed_bytes) == (True, 0)
        assert data_bytes(folder) == num_bytes
        assert memory.check(repair=True).removed_bytes > 100_000
        assert kit.contents(memory)["tokens"] == before["tokens"]


def test_what_an_ingest_writes_just_now_is_left_alone(kit, tmp_path, in_pieces):
    """Another process can look, and be refused to repair; a failure gives its space back at once."""
    path = tmp_path / "long.txt"
    path.write_text("much hay. " * 20_000)
    seen = []

    def look(progress):
        if progress.num_tokens > 100_000 and not seen:
            with kit.open_folder(tmp_path / "m", kit.ContextGister()) as other:
                seen.append(other.check().unused_bytes)
                with pytest.raises(MemoryLockedError):
                    other.check(repair=True)
                with pytest.raises(MemoryLockedError):
                    other.append([1])
            if fails:
                raise KeyboardInterrupt

    with kit.open_folder(tmp_path / "m", kit.ContextGister()) as memory:
        memory.append(np.arange(600) % 256)
        num_bytes = data_bytes(tmp_path / "m", "arrays")
        for fails in (True, False):
            seen.clear()
            if fails:
                with pytest.raises(KeyboardInterrupt):
                    memory.ingest(path, progress=look)
                described = data_bytes(
                    tmp_path / "m", "arrays/lod2", "arrays/meta2"
                )  # arrays that it was the first to need
                assert described < 1000
                assert data_bytes(tmp_path / "m", "arrays") == num_bytes + described
                memory.append([4])
            else:
                memory.ingest(path, progress=look)
            assert seen[0] > 30_000
        assert memory.num_tokens == 200_601
        report = memory.check(recompute_gists=True, repair=True)
        assert report.ok
        assert report.removed_bytes < 1000  # a blob


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock")
