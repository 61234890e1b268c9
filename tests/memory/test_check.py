"""Check finds every flipped byte, names it, and repair makes good what anything intact can prove."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3

import numpy as np
import pytest
from tests.memory.conftest import everything

from megacontext.catalog.rows import extent_row, source_row
from megacontext.errors import CorruptionError, MegaContextError, MemoryReadOnlyError
from megacontext.memory import repair, source_texts
from megacontext.storage.blobs import FileBlobs


def flip(path, place, bit):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def data_files(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(path for path in files if path.name != "writer.lock")


def test_flipped_bytes_are_found_or_harmless(kit, pristine, folder, wanted):
    """Random flips in every file of the memory: found by check, or every read still gives the same."""
    rng = np.random.default_rng(11)
    found = []
    for path in data_files(folder):
        name = path.relative_to(folder)
        num_flips = 12 if "catalog" in path.name else 1
        for place in rng.integers(0, path.stat().st_size, num_flips).tolist():
            flip(path, place, int(rng.integers(8)))
            try:
                with kit.open_folder(folder, read_only=True) as memory:
                    report = memory.check()
                    if report.ok:
                        assert everything(kit, memory) == wanted, (name, place)
                    found += [(str(name), damage.object_name + damage.problem) for damage in report.damages]
            except MegaContextError as error:
                found.append((str(name), str(error)))
            shutil.copy2(pristine / "m" / name, path)
            for extra in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
                (folder / extra).unlink(missing_ok=True)
    assert all("\n" not in problem for _, problem in found)
    for part in ("lod0", "lod1", "meta1", "raw", "catalog.sqlite", "catalog.journal"):
        assert [name for name, _ in found if part in name], part


def shard_of(folder, array, number):
    """The file of one shard: its name goes on with a zero for each further dimension."""
    name = folder / "arrays" / array / "c" / str(number)
    return name if name.is_file() else name / "0" / "0"


def repaired(kit, folder, wanted, num_left=0):
    """Check, repair, check again, and compare with the pristine memory."""
    with kit.open_folder(folder) as memory:
        before = memory.check()
        report = memory.check(repair=True)
        assert len(report.damages) == num_left, report.damages
        assert len(report.repaired) >= 1
        assert {damage.object_name for damage in report.repaired} >= {
            damage.object_name for damage in before.damages
        } - {damage.object_name for damage in report.damages}
    with kit.open_folder(folder) as memory:
        if not num_left:
            assert memory.check(recompute_gists=True).ok
            assert everything(kit, memory) == wanted
            memory.append([1])
        return before.damages


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_tokens_are_encoded_again(kit, folder, wanted, number):
    """Segment 0 holds bare tokens only, 1 both kinds, 2 and 3 a book: each repaired from its own kind of source."""
    shard = shard_of(folder, "lod0", number)
    flip(shard, 40, 3)
    (damage,) = repaired(kit, folder, wanted)
    assert damage.object_name == shard.relative_to(folder).as_posix()
    assert damage.token_start // 512 == (damage.token_stop - 1) // 512 == number
    assert damage.repairable == "raw sources"


@pytest.mark.parametrize("array", ["lod1", "meta1"])
def test_gists_are_computed_again(kit, folder, wanted, array):
    shard = shard_of(folder, array, 1)
    flip(shard, 100, 0)
    (damage,) = repaired(kit, folder, wanted)
    assert damage.object_name == shard.relative_to(folder).as_posix()
    assert 512 <= damage.token_start < damage.token_stop <= 1024
    assert damage.repairable == "tokens"


def test_a_missing_shard(kit, folder, wanted):
    shard_of(folder, "lod0", 1).unlink()
    shard_of(folder, "lod1", 2).unlink()
    damages = repaired(kit, folder, wanted)
    assert len(damages) == 2


def test_texts_come_back_from_tokens_and_originals(kit, folder, wanted):
    """Plain text decodes from tokens, with or without a byte-order mark; extracted text is parsed again."""
    with kit.open_folder(folder, read_only=True) as memory:
        by_name = {source.uri.rsplit("/", 1)[-1]: source for source in memory.sources()}
        names = memory._parts.blobs.object_name
    for digest in (
        by_name["book.txt"].raw_digest,
        by_name["mark.txt"].raw_digest,
        by_name["page.html"].text_digest,
        by_name["log.jsonl"].text_digest,
    ):
        flip(folder / names(digest), 20, 1)
    assert len(repaired(kit, folder, wanted)) == 4


def test_what_nothing_has_any_more_is_reported(kit, pristine, folder, wanted):
    """The original of extracted text: only the file it came from still has it."""
    with kit.open_folder(folder, read_only=True) as memory:
        page = next(source for source in memory.sources() if source.uri.endswith("page.html"))
        name = memory._parts.blobs.object_name(page.raw_digest)
    original = pristine / "in" / "page.html"
    aside = original.read_bytes()
    original.unlink()
    flip(folder / name, 20, 1)
    flip(shard_of(folder, "lod0", 1), 40, 3)
    with kit.open_folder(folder) as memory:
        report = memory.check(repair=True)
        (left,) = report.damages
        assert (left.object_name, left.token_start, left.token_stop) == (name, page.token_start, page.token_stop)
        assert len(report.repaired) == 1
    original.write_bytes(aside)
    repaired(kit, folder, wanted)


def test_a_folder_in_the_place_of_a_text_is_for_its_owner_to_remove(kit, folder, wanted):
    with kit.open_folder(folder, read_only=True) as memory:
        book = next(source for source in memory.sources() if source.uri.endswith("book.txt"))
        path = folder / memory._parts.blobs.object_name(book.raw_digest)
    path.unlink()
    (path / "mine").mkdir(parents=True)
    with kit.open_folder(folder) as memory:
        for repair in (False, True):
            (left,) = memory.check(repair=repair).damages
            assert "is a folder" in left.problem
            assert "remove what stands in its place, then run 'megacontext check --repair'" in left.problem
    (path / "mine").rmdir()
    path.rmdir()
    repaired(kit, folder, wanted)


def test_a_text_and_its_tokens_lost_together_are_reported(kit, folder):
    with kit.open_folder(folder, read_only=True) as memory:
        book = next(source for source in memory.sources() if source.uri.endswith("book.txt"))
        name = memory._parts.blobs.object_name(book.raw_digest)
        uri = book.uri
    flip(folder / name, 20, 1)
    flip(shard_of(folder, "lod0", 2), 40, 3)
    with kit.open_folder(folder) as memory:
        damages = memory.check().damages
        assert {damage.object_name for damage in damages} == {name, "arrays/lod0/c/2"}
        with pytest.raises(CorruptionError, match="lod0"):
            memory.tokens(1024, 1100)
        with pytest.raises(CorruptionError, match="raw"):
            memory.provenance(book.token_start, book.token_start + 5)
        report = memory.check(repair=True)  # from the original file, which is still there
        assert uri.startswith("file:")
        assert report.ok


@pytest.mark.parametrize("table", ["tail", "extents", "sources", "segments", "progress", "gists", "passages", "labels"])
def test_catalog_rows_come_back(kit, folder, wanted, table):
    row = f"rowid = (SELECT max(rowid) FROM {table})"
    if table == "gists":
        row = "level = 1 AND node = (SELECT max(node) FROM gists WHERE level = 1)"
    connection = sqlite3.connect(folder / "catalog.sqlite")
    assert connection.execute(f"UPDATE {table} SET crc = crc + 1 WHERE {row}").rowcount == 1
    connection.commit()
    connection.close()
    damages = repaired(kit, folder, wanted)
    assert any(table in damage.object_name or damage.object_name.startswith("catalog") for damage in damages)


def test_the_journal_comes_back(kit, folder, wanted):
    """The catalog's second copy: made again while the catalog itself is whole."""
    path = folder / "catalog.journal"
    flip(path, path.stat().st_size // 3, 4)
    (damage,) = repaired(kit, folder, wanted)
    assert damage.object_name == "catalog.journal"


@pytest.mark.parametrize("is_new_source", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_what_is_appended_beside_a_check_is_no_damage(kit, folder, monkeypatch, before, is_new_source):
    """To the last source, or as a new one, before or after the check has looked which sources there are."""
    with kit.open_folder(folder) as writer, kit.open_folder(folder, read_only=True) as reader:
        writer.append([1, 2, 3], source="growing")
        catalog = reader._parts.catalog
        sources = catalog.sources

        def with_an_append():
            found = None if before else sources()
            writer.append([4, 5], source="new" if is_new_source else "growing")
            return found or sources()

        monkeypatch.setattr(catalog, "sources", with_an_append)
        assert reader.check().damages == ()


@pytest.mark.parametrize("table", ["sources", "extents"])
def test_a_last_row_that_ends_elsewhere_is_damage(kit, tmp_path, table):
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append([1, 2, 3])
        with memory._parts.catalog.write() as writer:
            writer.append_tail(3, np.full(2, 4, np.uint32))
            writer.extend_source(1, token_stop=5, num_bytes=20)
        assert memory.check().ok
    for stop in (4, 6):
        with kit.open_folder(tmp_path / "m") as memory:
            catalog = memory._parts.catalog
            [source], [(_, extent)] = catalog.sources(), catalog.extents(0, 5)
            if table == "sources":
                row = source_row(dataclasses.replace(source, token_stop=stop))
            else:
                row = extent_row(1, dataclasses.replace(extent, token_stop=stop))
            with catalog._connections.writing() as connection:
                connection.execute(f"UPDATE {table} SET token_stop = ?, crc = ?", (stop, row[-1]))
                connection.execute("COMMIT")
            assert [damage for damage in memory.check().damages if table in damage.object_name]


def test_a_check_of_nothing_and_a_repair_of_the_read_only(kit, folder):
    with kit.make_memory() as memory:
        report = memory.check()
        assert (report.ok, report.num_tokens, report.num_objects) == (True, 0, 0)
    with kit.open_folder(folder, read_only=True) as memory:
        assert memory.check().num_objects > 10
        with pytest.raises(MemoryReadOnlyError):
            memory.check(repair=True)


def test_a_repair_counts_what_the_last_look_saw(kit, folder):
    for file in folder.glob("catalog.sqlite*"):
        file.unlink()
    with kit.open_folder(folder) as memory:
        report = memory.check(repair=True)
        assert report.ok
        assert report.num_objects == memory.check().num_objects > 10


@pytest.mark.parametrize("encoding_name", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("has_original", [False, True])
def test_a_long_text_comes_back_in_pieces(kit, tmp_path, in_pieces, monkeypatch, encoding_name, has_original):
    """Frame by frame with the table that they are found by, whatever it is made of."""
    for module in (repair, source_texts):
        monkeypatch.setattr(module, "LONG_BYTES", 100_000)
    path = tmp_path / "long.txt"
    path.write_bytes("".join(f"wörter of line {number}\n" for number in range(20_000)).encode(encoding_name))
    with kit.open_folder(tmp_path / "m", segment_tokens=8192) as memory:
        memory.ingest(path)
        [source], blobs = memory.sources(), memory._parts.blobs
        names = {
            digest: tmp_path / "m" / blobs.object_name(digest) for digest in (source.raw_digest, source.text_digest)
        }
        wanted = {name: name.read_bytes() for name in names.values()}
        if not has_original:
            path.unlink()
        joined, lengths = FileBlobs.put_many, []
        monkeypatch.setattr(
            FileBlobs, "put_many", lambda self, data: (lengths.extend(map(len, data)), joined(self, data))[1]
        )
        for digest, name in names.items():
            flip(name, len(wanted[name]) // 2, 1)
            assert memory.check(repair=True).ok
            assert blobs.reads_parts(digest)
            assert name.read_bytes() == wanted[name]
        assert lengths == []


def test_a_name_that_is_no_uri_is_in_nobodys_way(kit, tmp_path):
    with kit.open_folder(tmp_path / "m") as memory:
        for name in ("http://[team]/x", "file:///a%00b"):
            memory.ingest(text=f"a text named {name}", source=name)
            source = memory.sources()[-1]
            flip(tmp_path / "m" / memory._parts.blobs.object_name(source.raw_digest), 12, 1)
            assert memory.check(repair=True).ok
            assert memory.provenance(source.token_start, source.token_stop)[0].text == f"a text named {name}"
