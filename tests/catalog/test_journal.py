"""The journal as a file: what it replays, that it stays small, and that it never fails a commit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from megacontext.catalog.journal import JOURNAL_FILE, Change, Journal, read_journal
from megacontext.catalog.rebuilding import everything
from megacontext.catalog.rows import Progress, blob_row, with_crc
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.ports.catalog import Extent, Segment
from megacontext.testing.catalog_suite import EXAMPLE_INFO, add_example_source


def progress(num_commits: int) -> Change:
    return Change("progress", Progress(num_commits=num_commits).row())


def label(value: str) -> Change:
    return Change("labels", with_crc((1, "key", value)))


def nothing() -> Iterator[Change]:
    raise AssertionError("the journal was written anew")
    yield


def test_the_last_row_of_a_key_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.last_commit() == -1
    journal.record(1, [], iter([label("one"), progress(1)]))
    journal.record(2, [label("two"), progress(2)], nothing())
    contents = read_journal(tmp_path / "journal")
    assert (contents.num_commits, contents.problem) == (2, "")
    assert contents.tables["labels"] == {(1, "key"): with_crc((1, "key", "two"))}
    assert Journal(tmp_path / "journal").last_commit() == 2


def test_bytes_come_back_and_dropped_tail_rows_do_not(tmp_path: Path) -> None:
    rows = [blob_row(start, 2, bytes([start] * 8)) for start in range(0, 10, 2)]
    journal = Journal(tmp_path / "journal")
    journal.record(1, [], iter([*(Change("tail", row) for row in rows), progress(1)]))
    journal.record(2, [Change("tail", None, 0, 5), progress(2)], nothing())
    assert list(read_journal(tmp_path / "journal").tables["tail"].values()) == rows[3:]


def test_commits_that_were_missed_are_made_up_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.record(1, [], iter([progress(1)]))
    later = Journal(tmp_path / "journal")
    later.record(5, [progress(5)], iter([label("everything"), progress(5)]))
    assert read_journal(tmp_path / "journal").tables["labels"] == {(1, "key"): with_crc((1, "key", "everything"))}


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for number in range(1, 4000):
        changes = [label("x" * 1000 + str(number)), progress(number)]
        journal.record(number, changes, iter(changes))
    assert (tmp_path / "journal").stat().st_size < 2 << 20
    assert read_journal(tmp_path / "journal").num_commits == 3999


@pytest.mark.parametrize("lost_bytes", [1, 10, 200])
def test_a_torn_end_is_a_problem_and_written_anew(tmp_path: Path, lost_bytes: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.record(1, [], iter([label("one"), progress(1)]))
    journal.record(2, [label("two"), progress(2)], nothing())
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    assert read_journal(path).problem
    assert Journal(path).last_commit() in (-1, 1)
    Journal(path).record(3, [progress(3)], iter([label("three"), progress(3)]))
    assert (read_journal(path).num_commits, read_journal(path).problem) == (3, "")


def test_a_journal_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "journal").mkdir()
    journal = Journal(tmp_path / "journal")
    journal.record(1, [progress(1)], iter([progress(1)]))
    assert "could not be written" in caplog.text
    (tmp_path / "journal").rmdir()
    journal.record(2, [progress(2)], iter([progress(2)]))
    assert read_journal(tmp_path / "journal").num_commits == 2


def test_a_transaction_of_any_length_is_noted_in_the_same_memory(tmp_path: Path) -> None:
    """That of a long file: a row for every segment, one for every million tokens, and the tail dropped each time."""
    held = []
    with closing(SqliteCatalog.create(tmp_path, EXAMPLE_INFO)) as catalog:
        tracemalloc.start()
        try:
            with catalog.write() as writer:
                source_id = add_example_source(writer, 0, EXAMPLE_INFO.segment_tokens)
                for number in range(9000):
                    writer.seal(Segment(segment=number, digest=f"{number:064}", raw_digest=""))
                    if number % 16 == 0:
                        writer.add_extent(extent(source_id, number))
                    if number in {4500, 8999}:
                        held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[1] - held[0] < 100_000  # a note of every row would be a megabyte
        tables = read_journal(tmp_path / JOURNAL_FILE).tables
        with catalog._connections.reading() as connection:
            changes = list(everything(connection))
    for name, rows in tables.items():
        assert sorted(rows.values()) == [change.row for change in changes if change.table == name]
    assert len(tables["segments"]) == 9000


def extent(source_id: int, number: int) -> Extent:
    return Extent(
        source_id=source_id,
        token_start=number,
        token_stop=number + 1,
        byte_start=0,
        byte_stop=4,
        anchors=np.zeros(4096, np.int64),
    )
