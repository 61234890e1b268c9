"""The SQLite catalog, as every catalog and in what is its own: other processes, full disks, read-only media."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.small_disk import mounted, small_file_system

from megacontext.catalog import connections, sqlite
from megacontext.catalog.backup import copy_catalog
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import (
    CorruptionError,
    InvalidValueError,
    MegaContextError,
    MemoryLockedError,
    MemoryReadOnlyError,
    StorageError,
    StorageFullError,
)
from megacontext.ports.catalog import Passage, Source
from megacontext.testing.catalog_suite import EXAMPLE_INFO, CatalogSuite, add_example_source
from megacontext.testing.search_suite import SearchSuite


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    made = SqliteCatalog.create(tmp_path, EXAMPLE_INFO)
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    with small_file_system(tmp_path / "disk", size="1m") as folder:
        yield folder


def tokens(start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.arange(start, start + count, dtype=np.uint32)


class TestSqliteCatalog(CatalogSuite):
    pass


class TestSqliteSearch(SearchSuite):
    pass


def erased_with_traces(catalog: SqliteCatalog) -> None:
    """A source that was erased by a process that died before the files were rewritten."""
    with catalog.write() as writer:
        source_id = add_example_source(writer, 0, 40, uri="file:///secret")
    with catalog.write() as writer:
        writer.erase_source(source_id)


def test_threads_go_on_reading_while_traces_are_removed(
    tmp_path: Path, catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that draft and make gists do, beside the first commit of an ingest."""
    erased_with_traces(catalog)
    compact = sqlite.compact_database
    found: list[object] = []

    def read() -> None:
        try:
            found.extend(catalog.sources())
        except MegaContextError as error:
            found.append(error)

    reader = threading.Thread(target=read)

    def compact_beside_a_reader(path: Path) -> None:
        reader.start()
        reader.join(0.2)
        compact(path)

    monkeypatch.setattr(sqlite, "compact_database", compact_beside_a_reader)
    with catalog.write() as writer:
        add_example_source(writer, 40, 50, uri="file:///other")
    reader.join()
    assert [type(one) for one in found][:1] == [Source]
    assert b"secret" not in (tmp_path / "catalog.sqlite").read_bytes()
    assert not (tmp_path / "catalog.traces").exists()
    assert [source.uri for source in catalog.sources()] == ["erased/1", "file:///other"]
    assert list(catalog.check()) == []


def test_a_log_that_cannot_be_emptied_is_not_tried_with_every_commit(
    catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    erased_with_traces(catalog)
    tried = []

    def busy(path: Path) -> None:
        tried.append(path)
        raise StorageError(f"{path} is being read")

    monkeypatch.setattr(sqlite, "compact_database", busy)
    for number in range(3):
        with catalog.write() as writer:
            writer.append_tail(40 + number, tokens(0, 1))
    assert len(tried) == 1
    assert "may still hold traces" in caplog.text
    monkeypatch.setattr(sqlite, "_COMPACT_AGAIN_S", 0)
    catalog._compact_from = 0.0
    for number in range(3, 5):
        with catalog.write() as writer:
            writer.append_tail(40 + number, tokens(0, 1))
    assert len(tried) == 3


def test_everything_is_there_after_closing(tmp_path: Path, catalog: SqliteCatalog) -> None:
    with catalog.write() as writer:
        add_example_source(writer, 0, 40)
    sources = catalog.sources()
    catalog.close()
    again = SqliteCatalog.open(tmp_path)
    assert again.info == EXAMPLE_INFO
    assert again.sources() == sources
    np.testing.assert_array_equal(again.tail(0, 99)[1], tokens(0, 40))
    again.close()


def test_another_process_reads_while_this_one_writes(tmp_path: Path, catalog: SqliteCatalog) -> None:
    program = f"""
        from pathlib import Path
        from megacontext.catalog.sqlite import SqliteCatalog
        catalog = SqliteCatalog.open(Path({str(tmp_path)!r}), read_only=True)
        for line in iter(input, "stop"):
            state = catalog.state()
            sealed, tail = catalog.tail(0, 10_000)
            assert (tail == range(state.num_tokens)[: len(tail)]).all()
            print(state.num_tokens, flush=True)
    """
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    for start in range(0, 100, 10):
        with catalog.write() as writer:
            writer.append_tail(start, tokens(start, 10))
            if start == 50:  # in the middle of a transaction, the reader sees what was before
                print("look", file=reader.stdin, flush=True)
                assert reader.stdout.readline() == "50\n"
        print("look", file=reader.stdin, flush=True)
        assert reader.stdout.readline() == f"{start + 10}\n"
    print("stop", file=reader.stdin, flush=True)
    assert reader.wait() == 0
    reader.stdin.close()
    reader.stdout.close()


def test_threads_take_turns(catalog: SqliteCatalog) -> None:
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(50):
                sealed_tokens, tail = catalog.tail(0, 10_000)
                assert sealed_tokens == 0
                assert len(tail) % 4 == 0
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(0, 200, 4):
        with catalog.write() as writer:
            writer.append_tail(start, tokens(start, 4))
    for thread in threads:
        thread.join()
    assert errors == []
    assert catalog.state().num_tokens == 200


def test_a_second_writer_is_told(tmp_path: Path, catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_MS", 1)
    other = SqliteCatalog.open(tmp_path)
    with catalog.write() as writer:
        writer.append_tail(0, tokens(0, 5))
        with pytest.raises(MemoryLockedError), other.write():
            pass
    with other.write() as writer:
        writer.append_tail(5, tokens(5, 5))
    assert catalog.state().num_tokens == 10
    assert list(catalog.check()) == []
    other.close()


def test_reading_only(tmp_path: Path, catalog: SqliteCatalog) -> None:
    catalog.close()
    reader = SqliteCatalog.open(tmp_path, read_only=True)
    with pytest.raises(MemoryReadOnlyError, match="opened for reading"), reader.write():
        pass
    assert list(reader.check()) == []
    reader.close()


def test_text_that_is_none_is_refused(catalog: SqliteCatalog) -> None:
    source = Source(
        uri="file:///\udcff",
        version=1,
        kind="text",
        raw_digest="",
        text_digest="",
        num_bytes=0,
        token_start=0,
        token_stop=0,
    )
    with pytest.raises(InvalidValueError, match="not valid Unicode"), catalog.write() as writer:
        writer.add_source(source)
    assert catalog.sources() == []


def test_a_full_database_changes_nothing(catalog: SqliteCatalog) -> None:
    with catalog.write() as writer:
        add_example_source(writer, 0, 40)
    connection = catalog._connections.writer()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match="no space left"), catalog.write() as writer:
        writer.append_tail(40, tokens(40, 100_000))
    assert catalog.state().num_tokens == 40
    assert list(catalog.check()) == []
    connection.execute("PRAGMA max_page_count = 100000")
    with catalog.write() as writer:
        writer.append_tail(40, tokens(40, 100_000))
    assert catalog.state().num_tokens == 100_040


def test_a_full_disk_changes_nothing_and_can_be_read(small_disk: Path) -> None:
    catalog = SqliteCatalog.create(small_disk, EXAMPLE_INFO)
    num_tokens = 0
    with pytest.raises(StorageFullError, match="no space left"):  # noqa: PT012 - which append it is depends on the disk
        while True:
            with catalog.write() as writer:
                writer.append_tail(num_tokens, tokens(num_tokens, 4000))
            num_tokens += 4000
    assert num_tokens > 0
    assert catalog.state().num_tokens == num_tokens
    np.testing.assert_array_equal(catalog.tail(0, num_tokens)[1], tokens(0, num_tokens))
    catalog.close()
    again = SqliteCatalog.open(small_disk, read_only=True)
    assert again.state().num_tokens == num_tokens
    again.close()


def test_a_word_index_that_a_limit_on_file_sizes_has_no_room_for(catalog: SqliteCatalog) -> None:
    """It outgrows its cache amid a transaction, where SQLite says less than when it commits."""
    words = [f"{number * 7919 % 10_000_019:x}" for number in range(400_000)]
    passages = [
        Passage(
            token_start=24 * index, token_stop=24 * index + 32, text=" ".join(words[100 * index : 100 * index + 100])
        )
        for index in range(len(words) // 100)
    ]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(StorageFullError, match=r"no space left .*File too large"), catalog.write() as writer:
            writer.add_passages(passages)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert catalog.state().indexed_tokens == 0
    assert list(catalog.check()) == []
    with catalog.write() as writer:
        writer.add_passages(passages)
    assert catalog.search(words[-1], limit=1)


def test_a_full_disk_cannot_hold_a_new_catalog(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - 8192))
    with pytest.raises(StorageFullError):
        SqliteCatalog.create(small_disk, EXAMPLE_INFO)
    assert not (small_disk / "catalog.sqlite").exists()


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "crashed"])
def test_read_only_media_can_be_read(small_disk: Path, tmp_path: Path, *, crashed: bool) -> None:
    """After a crash the newest commits are in the write-ahead log, which read-only media cannot replay in place."""
    writing = tmp_path / "writing"
    writing.mkdir()
    catalog = SqliteCatalog.create(writing, EXAMPLE_INFO)
    with catalog.write() as writer:
        add_example_source(writer, 0, 40)
    if not crashed:
        catalog.close()
    for path in writing.glob("catalog.*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, small_disk)
    catalog.close()
    assert mounted("-o", "remount,ro", str(small_disk))
    for read_only in (True, False):
        reader = SqliteCatalog.open(small_disk, read_only=read_only)
        assert reader.state().num_tokens == 40
        np.testing.assert_array_equal(reader.tail(0, 40)[1], tokens(0, 40))
        assert list(reader.check()) == []
        with pytest.raises(MemoryReadOnlyError), reader.write():
            pass
        reader.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_catalog(small_disk, copy)
    copied = SqliteCatalog.open(copy)
    assert copied.state().num_tokens == 40
    assert list(copied.check()) == []
    copied.close()


def test_a_write_protected_file_is_read_and_not_written(tmp_path: Path, catalog: SqliteCatalog) -> None:
    """SQLite reports a file that the system does not let it write when the first transaction begins."""
    with catalog.write() as writer:
        add_example_source(writer, 0, 40)
    connection = catalog._connections.writer()
    connection.execute("PRAGMA query_only = ON")  # the same error code as from a file without write permission
    with pytest.raises(MemoryReadOnlyError, match="cannot be written"), catalog.write() as writer:
        writer.append_tail(40, tokens(40, 1))
    assert catalog.state().num_tokens == 40


def test_traces_are_not_removed_where_only_the_journal_has_the_last_commits(tmp_path: Path) -> None:
    """A power cut in an erasure may lose commits, too: then the journal, which compacting rewrites, alone has them."""
    with closing(SqliteCatalog.create(tmp_path, EXAMPLE_INFO)) as catalog, catalog.write() as writer:
        add_example_source(writer, 0, 4)
    before = (tmp_path / "catalog.sqlite").read_bytes()
    with closing(SqliteCatalog.open(tmp_path)) as catalog, catalog.write() as writer:
        add_example_source(writer, 4, 9, version=2)
    (tmp_path / "catalog.sqlite").write_bytes(before)
    (tmp_path / "catalog.traces").touch()
    journal = (tmp_path / "catalog.journal").read_bytes()
    with closing(SqliteCatalog.open(tmp_path)) as catalog:
        with pytest.raises(CorruptionError, match="lost 1 of its last commits"), catalog.write() as writer:
            add_example_source(writer, 4, 9, version=2)
        assert (tmp_path / "catalog.journal").read_bytes() == journal
        catalog.rebuild()
        assert [source.version for source in catalog.sources()] == [1, 2]
