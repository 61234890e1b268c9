"""Check finds every flipped byte, names it, and repair makes good what anything intact can prove."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sqlite3

import numpy as np
import pytest

from megacontext.catalog.rows import extent_row, source_row
from megacontext.errors import CorruptionError, MegaContextError, MemoryReadOnlyError
from megacontext.memory import repair, source_texts
from megacontext.storage.blobs import FileBlobs


@pytest.fixture(scope="module")
def pristine(kit, tmp_path_factory):
    """A folder with everything in it: sealed and unsealed, files, chats, bare tokens, a deep tree, two versions."""
    root = tmp_path_factory.mktemp("check")
    sources = root / "in"
    sources.mkdir()
    (sources / "book.txt").write_text("The wörds of a long book, number {}. ".format("x") * 120)
    (sources / "page.html").write_text("<title>T</title><p>some <b>bold</b> text</p>" * 20)
    (sources / "mark.txt").write_bytes(b"\xef\xbb\xbf" + "marked text ü ".encode() * 10)
    (sources / "log.jsonl").write_text(
        "\n".join(json.dumps({"role": "user", "content": f"turn {i}"}) for i in range(9))
    )
    with kit.open_folder(root / "m") as memory:
        memory.append(np.random.default_rng(0).integers(0, kit.VOCAB, 700))
        memory.ingest(sources, labels={"a": "b"})
        memory.append(np.random.default_rng(1).integers(0, kit.VOCAB, 300), source="bare", role="user")
        memory.append_text("the last turn", source="chat", role="user")
        memory.append([5, 6, 7])
        assert memory.num_tokens > 4 * 512
        state = memory.reader.state
        assert state.sealed_tokens < memory.num_tokens - 8
        assert memory.check(recompute_gists=True).ok
    return root


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy to be damaged; the originals of its files are gone."""
    shutil.copytree(pristine / "m", tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def wanted(kit, pristine):
    with kit.open_folder(pristine / "m", read_only=True) as memory:
        return everything(kit, memory)


def everything(kit, memory):
    """What users see, with the bytes of all sources."""
    digests = [source.raw_digest for source in memory.sources() if source.raw_digest]
    return {
        **kit.contents(memory),
        "raw": [hashlib.sha256(memory._parts.blobs.get(digest)).hexdigest() == digest for digest in digests],
        "labels": [dict(source.labels) for source in memory.sources()],
    }


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


def test_gists_of_other_tokens_are_found_when_recomputed(kit, tmp_path):
    class Liar(kit.MeanGister):
        def from_tokens(self, token_ids, *, start, num_context):
            batch = super().from_tokens(token_ids, start=start, num_context=num_context)
            return dataclasses.replace(batch, vectors=batch.vectors + np.float16(start == 512))

    tokens = np.arange(1100) % 256
    with kit.open_folder(tmp_path / "m", Liar()) as memory:
        memory.append(tokens[:512])
        memory.append(tokens[512:])
    with kit.open_folder(tmp_path / "m") as memory:
        assert memory.check().ok
        report = memory.check(recompute_gists=True)
        assert {damage.object_name for damage in report.damages} == {"arrays/lod1/c/1/0/0"}
        assert report.damages[0].token_start >= 512
        assert memory.check(repair=True, recompute_gists=True).ok
        assert memory.check(recompute_gists=True).ok


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


def test_gists_that_wait_in_the_catalog_are_compared_with_fresh_ones(kit, folder):
    """Of a short history they are all that there is."""
    with kit.open_folder(folder) as memory:
        start, stop = memory.reader.state.sealed_nodes.get(1, 0), memory.num_tokens // 8
        (node, gists), *_ = memory._parts.catalog.gists(1, start, stop)
        with memory._parts.catalog.write() as writer:
            writer.put_gists(1, node, dataclasses.replace(gists[:1], vectors=gists.vectors[:1] + 1))
        assert memory.check().ok
        damage, *of_its_parents = memory.check(recompute_gists=True).damages
        assert all(other.token_stop - other.token_start > 8 for other in of_its_parents)
        assert (damage.object_name, damage.token_start, damage.token_stop) == ("catalog: gists", 8 * node, 8 * node + 8)
        assert damage.problem == "1 gists are not what their tokens give"
        assert memory.check(repair=True, recompute_gists=True).ok
        assert memory.check(recompute_gists=True).damages == ()


@pytest.fixture
def costly(kit):
    """A gister whose gists have a price; ``made`` says of how many tokens some were made."""

    class Costly(kit.MeanGister):
        nodes_at_once = 4

        def __init__(self):
            super().__init__()
            self.made = []

        def from_tokens(self, token_ids, *, start, num_context):
            self.made.append(len(token_ids) - num_context)
            return super().from_tokens(token_ids, start=start, num_context=num_context)

        def from_gists(self, children, *, level):
            self.made.append(len(children) * 8 ** (level - 1))
            return super().from_gists(children, level=level)

    return Costly()


def waiting(memory):
    """Nodes of level 1 that wait in the catalog, and how many there should be."""
    first, stop = memory.reader.state.sealed_nodes.get(1, 0), memory.num_tokens // 8
    return sum(len(batch) for _, batch in memory._parts.catalog.gists(1, first, stop)), stop - first


def spoil(folder, statement):
    connection = sqlite3.connect(folder / "catalog.sqlite")
    assert connection.execute(statement).rowcount >= 1
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "made"),
    [
        (
            "UPDATE gists SET crc = crc + 1 WHERE level = 1 AND node = 70",
            [8],
        ),
        ("UPDATE gists SET crc = crc + 1 WHERE level = 1", [32, 32, 32, 32]),
        ("UPDATE passages SET crc = crc + 1", []),
        ("UPDATE sources SET crc = crc + 1 WHERE source_id = 1", []),
    ],
)
def test_gists_that_have_a_price_are_paid_again_only_where_they_are_damaged(kit, tmp_path, costly, statement, made):
    folder = tmp_path / "m"
    with kit.open_folder(folder, costly) as memory:
        memory.ingest(text="words " * 106 + "more", source="text")
        assert waiting(memory) == (16, 16)
    spoil(folder, statement)
    costly.made.clear()
    with kit.open_folder(folder, costly) as memory:
        assert memory.check(repair=True).ok
        assert costly.made == made
        assert waiting(memory) == (16, 16)


@pytest.mark.parametrize("has_price", [False, True])
def test_gists_that_were_lost_with_the_catalog(kit, tmp_path, costly, has_price):
    """They are made again, unless that has a price."""
    folder = tmp_path / "m"
    with kit.open_folder(folder, costly if has_price else None) as memory:
        memory.ingest(text="words " * 150, source="text")
        num = waiting(memory)[1]
    (folder / "catalog.sqlite").unlink()
    with kit.open_folder(folder, costly if has_price else None) as memory:
        costly.made.clear()
        assert memory.check(repair=True).ok
        assert costly.made == []
        assert waiting(memory) == (0 if has_price else num, num)


def test_what_was_made_of_a_gist_that_is_not_its_tokens_is_made_again(kit, folder):
    """Also where it agrees with that."""
    with kit.open_folder(folder) as memory:
        first, stop = memory.reader.state.sealed_nodes[1], memory.num_tokens // 8
        parent = -(-first // 8)
        assert (parent + 1) * 8 <= stop
        catalog = memory._parts.catalog
        for level, node in ((1, 8 * parent), (2, parent)):
            [(_, gists)] = catalog.gists(level, node, node + 1)
            wrong = (
                dataclasses.replace(gists, vectors=gists.vectors + 1)
                if level == 1
                else memory.reader.compute(2, node, node + 1)
            )
            with catalog.write() as writer:
                writer.put_gists(level, node, wrong)
        assert len(memory.check(recompute_gists=True).damages) == 1
        assert memory.check(repair=True, recompute_gists=True).ok
        assert memory.check(recompute_gists=True).damages == ()


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
