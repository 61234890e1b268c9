"""A copy is the last commit, whole and verified, whatever a writer does meanwhile."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from megacontext.errors import CorruptionError, InvalidValueError, MemoryExistsError, SchemaVersionError
from megacontext.memory.erase import Eraser
from megacontext.runtime import assembly
from megacontext.runtime.transfer import export_memory, import_memory


@pytest.fixture
def folder(tmp_path, base):
    """One sealed segment, a tail, a text."""
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="mean") as memory:
        memory.append(np.random.default_rng(0).integers(0, 256, 70_000))
        memory.ingest(text="Some text.", source="note")
    return tmp_path / "memory"


@pytest.fixture
def archive(folder, tmp_path):
    export_memory(folder, tmp_path / "memory.tar")
    return tmp_path / "memory.tar"


def rewritten(archive, change):
    """The archive with every member passed through ``change(name, data) -> (name, data) | None``."""
    out = io.BytesIO()
    with tarfile.open(archive) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            changed = change(member.name, source.extractfile(member).read())
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                target.addfile(info, io.BytesIO(changed[1]))
    archive.write_bytes(out.getvalue())


def test_a_copy_holds_everything_and_checks_well(folder, archive, tmp_path, base):
    report = import_memory(archive, tmp_path / "copy")
    assert (report.num_sources, report.num_tokens) == (2, 70_010)
    with (
        assembly.open(folder, base=base, read_only=True) as original,
        assembly.open(tmp_path / "copy", base=base) as copy,
    ):
        np.testing.assert_array_equal(copy.tokens(0, 70_010), original.tokens(0, 70_010))
        np.testing.assert_array_equal(copy.gists(2, 0, 68), original.gists(2, 0, 68))
        assert copy.sources() == original.sources()
        assert copy.check(recompute_gists=True).damages == ()
        copy.append([1, 2, 3])


def test_what_a_writer_adds_meanwhile_is_not_in_the_copy(folder, tmp_path, base):
    with assembly.open(folder, base=base) as writer:
        added = []

        def write(num_bytes, name):
            if not added:  # after the catalog was copied
                added.append(writer.append(np.zeros(70_000, np.int64)))

        export_memory(folder, tmp_path / "busy.tar", progress=write)
        assert added == [70_010]
    assert import_memory(tmp_path / "busy.tar", tmp_path / "copy").num_tokens == 70_010
    with assembly.open(tmp_path / "copy", base=base) as copy:
        assert copy.check(recompute_gists=True).damages == ()


def from_the_future(name, data):
    return name, json.dumps({**json.loads(data), "format": 9}).encode() if name == "manifest.json" else data


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda name, data: None if name.endswith("zarr.json") else (name, data), CorruptionError),
        (lambda name, data: (name, b"x" + data[1:]) if "lod0/c" in name else (name, data), CorruptionError),
        (lambda name, data: None if name == "manifest.json" else (name, data), InvalidValueError),
        (lambda name, data: ("../escape" if name.endswith("zarr.json") else name, data), InvalidValueError),
        (lambda name, data: ("/etc/escape" if name.endswith("zarr.json") else name, data), InvalidValueError),
        (lambda name, data: ("arrays/../../escape" if name.endswith("zarr.json") else name, data), InvalidValueError),
        (from_the_future, SchemaVersionError),
    ],
)
def test_archives_that_were_tampered_with_leave_nothing(archive, tmp_path, change, error):
    rewritten(archive, change)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error):
        import_memory(archive, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_link_in_an_archive_is_refused(archive, tmp_path):
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("raw/ab/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(InvalidValueError, match="link"):
        import_memory(archive, tmp_path / "copy")


def test_a_missing_file_ends_the_export_without_an_archive(folder, tmp_path):
    next(folder.glob("raw/*/*.zst")).unlink()
    with pytest.raises(CorruptionError, match="--repair"):
        export_memory(folder, tmp_path / "memory.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory"]


@pytest.mark.parametrize("name", ["arrays/zarr.json", "arrays/lod1/zarr.json"])
def test_arrays_that_no_reader_could_open_are_not_exported(folder, tmp_path, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(CorruptionError, match=rf"{name} .*--repair"):
        export_memory(folder, tmp_path / "memory.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory"]


def test_half_an_erasure_is_not_exported(folder, tmp_path, base, monkeypatch):
    """Its process died: nobody holds a lock any more."""
    with assembly.open(folder, base=base) as memory, monkeypatch.context() as crash:
        crash.setattr(Eraser, "_recompute_gists", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            memory.erase("note")
    with pytest.raises(CorruptionError, match="erase again"):
        export_memory(folder, tmp_path / "memory.tar")
    with assembly.open(folder, base=base) as memory:
        memory.erase("note")
    export_memory(folder, tmp_path / "memory.tar")


def test_what_lies_beside_an_archive_stays(folder, tmp_path):
    """A file of a name that an export might have chosen for itself; and no trace of the export's own."""
    beside = tmp_path / "out" / "memory.tar.unfinished"
    beside.parent.mkdir()
    beside.write_text("mine")
    export_memory(folder, beside.parent / "memory.tar")
    assert sorted(path.name for path in beside.parent.iterdir()) == ["memory.tar", "memory.tar.unfinished"]
    assert beside.read_text() == "mine"


@pytest.mark.parametrize("place", ["s3://bucket/m", "gs://bucket/m"])
def test_places_that_are_no_folder_are_refused(folder, archive, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for refused in (lambda: import_memory(archive, place), lambda: export_memory(place, tmp_path / "new.tar")):
        with pytest.raises(InvalidValueError, match=r"is not a local folder; memories live in local folders"):
            refused()
    assert not (tmp_path / "s3:").exists()
    assert not (tmp_path / "gs:").exists()


def test_nothing_is_overwritten(folder, archive, tmp_path):
    with pytest.raises(InvalidValueError, match="exists"):
        export_memory(folder, archive)
    with pytest.raises(MemoryExistsError):
        import_memory(archive, folder)
    (tmp_path / "empty").mkdir()
    assert import_memory(archive, tmp_path / "empty").num_sources == 2
