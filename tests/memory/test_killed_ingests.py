"""What an ingest that was killed, or failed, leaves behind: nothing that counts, and files that others remove."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megacontext.errors import MemoryLockedError
from megacontext.memory.layout import gist_spec, meta_spec, shard_nodes

HERE = Path(__file__).parent
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


@pytest.mark.parametrize("array", ["lod1", "meta1"])
def test_gists_that_nobody_declared_are_removed_too(kit, tmp_path, array):
    """Killed behind the tokens of an ingest, before the gists that were made of them counted."""
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append(np.arange(1200) % 256)
        num_bytes = data_bytes(tmp_path / "m", "arrays")
        spec = {"lod1": gist_spec, "meta1": meta_spec}[array](memory.info, 1)
        rows = np.ones((shard_nodes(memory.info), *spec.row_shape), spec.dtype)
        memory._parts.arrays.write_shard(spec, memory.reader.state.sealed_nodes[1] // spec.shard_rows, rows)
        assert data_bytes(tmp_path / "m", "arrays") > num_bytes
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append([1, 2, 3])
        assert data_bytes(tmp_path / "m", "arrays") == num_bytes
        assert memory.check(recompute_gists=True).ok


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
