"""Damage is found wherever it matters, and the journal brings back what cannot be computed."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.catalog.conftest import change, contents, findings, rebuild

from megacontext.catalog.journal import Journal
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import CorruptionError, MemoryReadOnlyError, StorageError
from megacontext.testing.catalog_suite import EXAMPLE_INFO, add_example_source

NUM_FLIPS = 40


def test_an_intact_catalog_has_no_findings(folder: Path) -> None:
    assert findings(folder) == []


@pytest.mark.parametrize("name", ["catalog.sqlite", "catalog.journal"])
def test_a_flipped_bit_is_found_or_does_not_matter(intact: Path, folder: Path, name: str) -> None:
    expected = contents(intact)
    data = (folder / name).read_bytes()
    places = random.Random(name)
    num_found = 0
    for number in range(NUM_FLIPS):
        # every fourth in the first page, which holds the header and the schema
        offset = places.randrange(len(data) if number % 4 else min(4096, len(data)))
        flipped = bytearray(data)
        flipped[offset] ^= 1 << places.randrange(8)
        (folder / name).write_bytes(flipped)
        if findings(folder):
            num_found += 1
        else:
            assert contents(folder) == expected, f"{name}: byte {offset}"
    assert num_found >= NUM_FLIPS // 5


def first_rows(folder: Path, table: str, count: int) -> list[int]:
    """Where the first rows of a table that fits one page begin in the file: SQLite's cell pointers."""
    connection = sqlite3.connect(folder / "catalog.sqlite")
    [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    [(page_bytes,)] = connection.execute("PRAGMA page_size").fetchall()
    connection.close()
    start = (page - 1) * page_bytes
    data = (folder / "catalog.sqlite").read_bytes()[start : start + page_bytes]
    assert data[0] in (0x0A, 0x0D), "a leaf"
    return [start + int.from_bytes(data[8 + 2 * row : 10 + 2 * row]) for row in range(count)]


@pytest.mark.parametrize("table", ["gists", "tail", "segments", "extents"])
def test_every_flip_in_a_rows_header_is_found_or_does_not_matter(intact: Path, folder: Path, table: str) -> None:
    """The header of a row holds the types of its values: a flip there makes a key NULL, or a number a text."""
    expected = contents(intact)
    file = folder / "catalog.sqlite"
    data = file.read_bytes()
    [row] = first_rows(folder, table, 1)
    num_found = 0
    for bit in range(8 * 8):
        flipped = bytearray(data)
        flipped[row + bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        if findings(folder):
            num_found += 1
        else:
            assert contents(folder) == expected, f"{table}: bit {bit}"
    assert num_found >= 60


@pytest.mark.parametrize(
    ("statement", "name", "tokens", "repairable"),
    [
        ("UPDATE sources SET author = 'Eve' WHERE source_id = 2", "catalog.sqlite: sources", (40, 80), "journal"),
        ("UPDATE extents SET byte_stop = 3 WHERE extent_id = 12", "catalog.sqlite: extents", (440, 480), "journal"),
        ("UPDATE labels SET value = 'none' WHERE source_id = 1", "catalog.sqlite: labels", (0, 0), "journal"),
        ("UPDATE segments SET digest = 'x' WHERE segment = 3", "catalog.sqlite: segments", (192, 256), "journal"),
        ("UPDATE tail SET tokens = zeroblob(length(tokens))", "catalog.sqlite: tail", None, "journal"),
        ("UPDATE gists SET payload = zeroblob(24) WHERE node = 59", "catalog.sqlite: gists", (472, 480), "tokens"),
        ("DELETE FROM gists", "", None, ""),  # waiting gists are made again when they are missed
        ("DELETE FROM sources WHERE source_id = 5", "catalog.sqlite: sources", (0, 480), "journal"),
        ("DELETE FROM tail", "catalog.sqlite: tail", (448, 480), "journal"),
        ("UPDATE progress SET num_tokens = 470", "catalog.sqlite: progress", (0, 0), "journal"),
        ("UPDATE passages SET token_stop = 1 WHERE token_start = 48", "catalog.sqlite: passages", (56, 72), "tokens"),
        ("DELETE FROM passages WHERE token_start = 48", "catalog.sqlite: passages", (0, 480), "tokens"),
        ("UPDATE words_docsize SET sz = x'05' WHERE id = 48", "catalog.sqlite: words", (0, 1160), "tokens"),
        ("UPDATE words_idx SET pgno = pgno + 2", "catalog.sqlite: words", (0, 1160), "tokens"),
        ("INSERT INTO words(rowid, terms) VALUES (999, 'w1')", "catalog.sqlite: words", (0, 1160), "tokens"),
        ("CREATE TABLE extra (x)", "catalog.sqlite", (0, 0), "journal"),
        ("DROP INDEX extents_by_token", "catalog.sqlite", (0, 0), "journal"),
    ],
)
def test_findings_name_the_place(
    folder: Path, statement: str, name: str, tokens: tuple[int, int] | None, repairable: str
) -> None:
    change(folder, statement)
    found = findings(folder)
    assert [damage for damage in found if damage.object_name == "catalog.journal"] == []
    if not name:
        assert found == []
        return
    named = [damage for damage in found if damage.object_name == name]
    assert named, found
    assert named[0].repairable == repairable
    if tokens is not None:
        assert (named[0].token_start, named[0].token_stop) == tokens


def test_a_damaged_row_is_not_served(folder: Path) -> None:
    change(
        folder, "UPDATE tail SET tokens = zeroblob(length(tokens))", "UPDATE gists SET crc = crc + 1 WHERE node = 57"
    )
    catalog = SqliteCatalog.open(folder)
    with pytest.raises(CorruptionError, match="tail"):
        catalog.tail(448, 480)
    with pytest.raises(CorruptionError, match="gists"):
        catalog.gists(1, 56, 58)
    assert len(catalog.gists(1, 58, 59)) == 1
    catalog.close()


def tear_header(folder: Path) -> None:
    path = folder / "catalog.sqlite"
    path.write_bytes(b"\x00" * 100 + path.read_bytes()[100:])


def cut_short(folder: Path) -> None:
    path = folder / "catalog.sqlite"
    path.write_bytes(path.read_bytes()[:5000])


def damage_rows(folder: Path) -> None:
    for table in ("sources", "extents", "labels", "segments", "sealed_nodes", "tail", "progress", "memory"):
        change(folder, f"UPDATE {table} SET crc = crc + 1")


@pytest.mark.parametrize("spoil", [tear_header, cut_short, damage_rows])
def test_recovery_brings_back_all_but_gists_and_index(
    intact: Path, folder: Path, spoil: Callable[[Path], None]
) -> None:
    info, state, sources, by_uri, extents, segments, tail, _, _ = contents(intact)
    spoil(folder)
    assert findings(folder)
    rebuild(folder)
    assert findings(folder) == []
    got = contents(folder)
    assert got[0] == info
    assert got[2:7] == (sources, by_uri, extents, segments, tail)
    assert (got[1].num_tokens, got[1].sealed_nodes) == (state.num_tokens, state.sealed_nodes)
    catalog = SqliteCatalog.open(folder)
    with catalog.write() as writer:
        writer.append_tail(480, np.zeros(3, dtype=np.uint32))
    catalog.close()
    assert findings(folder) == []


@pytest.mark.parametrize("spoil", [tear_header, cut_short])
def test_a_broken_file_can_be_opened_to_be_checked(
    folder: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(folder)
    catalog = SqliteCatalog.open(folder, read_only=True)
    assert "damaged" in caplog.text
    assert catalog.info == EXAMPLE_INFO
    assert next(iter(catalog.check())).repairable == "journal"
    with pytest.raises(CorruptionError, match=r"catalog\.sqlite"):
        catalog.state()
    with pytest.raises(MemoryReadOnlyError):
        catalog.rebuild()
    catalog.close()
    (folder / "catalog.journal").unlink()
    with pytest.raises(CorruptionError, match=r"catalog\.sqlite"):
        SqliteCatalog.open(folder).state()


def test_a_damaged_journal_is_written_anew_from_intact_rows(intact: Path, folder: Path) -> None:
    expected = contents(intact)
    journal = folder / "catalog.journal"
    journal.write_bytes(journal.read_bytes().replace(b"Ada", b"Eve", 1))
    assert {damage.repairable for damage in findings(folder)} == {"catalog"}
    catalog = SqliteCatalog.open(folder)
    catalog.rebuild()
    catalog.close()
    assert findings(folder) == []
    assert contents(folder) == expected


def test_without_an_intact_journal_nothing_is_replaced(folder: Path) -> None:
    change(folder, "UPDATE sources SET crc = crc + 1")
    journal = folder / "catalog.journal"
    journal.write_bytes(journal.read_bytes().replace(b"Ada", b"Eve", 1))
    before = (folder / "catalog.sqlite").read_bytes()
    assert {damage.repairable for damage in findings(folder)} == {""}  # the one would need the other
    catalog = SqliteCatalog.open(folder)
    with pytest.raises(CorruptionError, match="second copy"):
        catalog.rebuild()
    assert (folder / "catalog.sqlite").read_bytes() == before
    assert catalog.state().num_tokens == 480  # what can be read still is
    catalog.close()


@pytest.mark.parametrize("spoil", [tear_header, cut_short])
def test_a_broken_file_without_its_journal_stays_broken(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    journal = folder / "catalog.journal"
    journal.write_bytes(journal.read_bytes().replace(b"Ada", b"Eve", 1))
    (found,) = findings(folder)
    assert found.repairable == ""
    assert "so is its second copy: catalog.journal line" in found.problem
    catalog = SqliteCatalog.open(folder)
    with pytest.raises(CorruptionError, match="second copy"):
        catalog.rebuild()
    assert [damage.repairable for damage in catalog.check()] == [""]
    with pytest.raises(CorruptionError, match=r"catalog\.sqlite and its second copy are damaged"):
        catalog.state()
    catalog.close()


def test_a_folder_in_the_catalogs_place_is_named(folder: Path) -> None:
    for leftover in folder.glob("catalog.sqlite*"):
        leftover.unlink()
    (folder / "catalog.sqlite").mkdir()
    (found,) = findings(folder)
    assert "catalog.sqlite is a folder" in found.problem
    with pytest.raises(StorageError, match=r"catalog\.sqlite is a folder; remove it"):
        rebuild(folder)
    (folder / "catalog.sqlite").rmdir()
    rebuild(folder)
    assert findings(folder) == []


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_folder_in_the_place_of_sqlites_files_is_named(folder: Path, suffix: str) -> None:
    for leftover in folder.glob("*-*"):
        leftover.unlink()
    (folder / f"catalog.sqlite{suffix}").mkdir()
    with pytest.raises(StorageError, match=rf"catalog\.sqlite{suffix} is a folder, .*; remove it"):
        rebuild(folder)


def test_a_header_that_forbids_writing_is_damage(folder: Path) -> None:
    data = bytearray((folder / "catalog.sqlite").read_bytes())
    data[18] ^= 1
    (folder / "catalog.sqlite").write_bytes(data)
    catalog = SqliteCatalog.open(folder)
    with pytest.raises(CorruptionError, match="nobody may write it; run 'megacontext check --repair'"), catalog.write():
        pass
    catalog.rebuild()
    with catalog.write() as writer:
        writer.append_tail(480, np.zeros(3, dtype=np.uint32))
    catalog.close()


def test_a_kill_between_the_first_commit_and_its_journal_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = SqliteCatalog.create(tmp_path, EXAMPLE_INFO)
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "record", lambda *given: None)
        with catalog.write() as writer:
            add_example_source(writer, 0, 40)
    assert list(catalog.check()) == []
    with catalog.write() as writer:
        writer.set_label(1, "seen", "yes")
    catalog.close()
    (tmp_path / "catalog.sqlite").write_bytes(b"broken")
    rebuild(tmp_path)
    assert SqliteCatalog.open(tmp_path).sources()[0].labels["seen"] == "yes"


def test_a_missing_or_stale_journal_is_written_anew(folder: Path) -> None:
    (folder / "catalog.journal").unlink()
    [found] = findings(folder)
    assert (found.object_name, found.repairable) == ("catalog.journal", "catalog")
    catalog = SqliteCatalog.open(folder)
    with catalog.write() as writer:
        writer.set_label(1, "seen", "yes")
    assert list(catalog.check()) == []
    catalog.close()
    stale = (folder / "catalog.journal").read_bytes()
    catalog = SqliteCatalog.open(folder)
    with catalog.write() as writer:
        writer.set_label(1, "seen", "twice")
    catalog.close()
    (folder / "catalog.journal").write_bytes(stale)  # as if a crash came between the commit and the journal
    assert findings(folder) == []
    catalog = SqliteCatalog.open(folder)
    with catalog.write() as writer:
        writer.set_label(1, "seen", "thrice")
    catalog.close()
    assert findings(folder) == []
    rebuild(folder)
    assert contents(folder)[2][0].labels["seen"] == "thrice"


def test_a_damaged_write_ahead_log_is_noticed_and_undone(tmp_path: Path) -> None:
    """SQLite drops a log from its first bad frame on without a word: acknowledged commits would be gone."""
    catalog = SqliteCatalog.create(tmp_path, EXAMPLE_INFO)
    for start in range(0, 320, 32):
        with catalog.write() as writer:
            writer.append_tail(start, np.arange(start, start + 32, dtype=np.uint32))
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for path in [*tmp_path.glob("catalog.*")]:
        if not path.name.endswith("-shm"):
            shutil.copy(path, crashed)
    catalog.close()
    log = crashed / "catalog.sqlite-wal"
    flipped = bytearray(log.read_bytes())
    flipped[len(flipped) // 2] ^= 4
    log.write_bytes(flipped)

    catalog = SqliteCatalog.open(crashed)
    assert catalog.state().num_tokens < 320
    lost = [damage for damage in catalog.check() if "lost" in damage.problem]
    assert [damage.repairable for damage in lost] == ["journal"]
    with pytest.raises(CorruptionError, match="lost"), catalog.write():
        pass
    catalog.rebuild()
    np.testing.assert_array_equal(catalog.tail(0, 999)[1], np.arange(320))
    assert list(catalog.check()) == []
    catalog.close()


def test_a_lost_file_is_rebuilt_from_its_journal(folder: Path) -> None:
    (folder / "catalog.sqlite").unlink()
    catalog = SqliteCatalog.open(folder)
    with pytest.raises(CorruptionError, match="is missing; run"):
        catalog.state()
    assert [damage.object_name for damage in catalog.check()] == ["catalog.sqlite"]
    catalog.rebuild()
    assert catalog.state().num_tokens == 480
    assert len(catalog.sources()) == 12
    catalog.close()
