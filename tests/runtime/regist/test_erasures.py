"""What is erased is gone from every base that a memory had or is moving to."""

from __future__ import annotations

import shutil

import pytest
from tests.runtime.regist.memories import contents, has_text

from megacontext.errors import (
    DeviceMemoryError,
    MemoryLockedError,
    ServerError,
    StorageFullError,
    StorageTimeoutError,
)
from megacontext.memory.erase import Eraser
from megacontext.runtime import assembly
from megacontext.runtime.regist import regist
from megacontext.storage.generations import Generation, Hold, all_generations


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


@pytest.mark.parametrize(
    "trouble",
    [
        StorageFullError("no space left"),
        StorageTimeoutError("too slow"),
        ServerError("does not answer"),
        DeviceMemoryError("too large"),
        MemoryLockedError("being written"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_that_may_pass_costs_nothing_that_was_kept(folder, bases, monkeypatch, trouble):
    with assembly.open(folder) as memory:
        memory.append_text("magenta zebra", source="zebra")
        memory.append_text("the end", source="end")
    regist(folder, base=bases[1], keep_old=True)
    forget = Eraser._forget

    def fail(self, name, sources):
        if self._parts.info.base_name == bases[0]:
            raise trouble
        return forget(self, name, sources)

    with assembly.open(folder) as memory:
        with monkeypatch.context() as patched:
            patched.setattr(Eraser, "_forget", fail)
            with pytest.raises(type(trouble), match=str(trouble)):
                memory.erase("zebra")
        assert Generation(folder, 0).has_catalog
        assert [source.uri for source in memory.sources()][-2:] == ["zebra", "end"]  # the name to erase it again by
        memory.erase("zebra")
    assert Generation(folder, 0).has_catalog
    assert not has_text(folder, "magenta zebra")


@pytest.mark.parametrize("number", [0, 1, 3])
def test_what_was_half_removed_holds_nothing_of_it(folder, bases, monkeypatch, number):
    """Its catalog goes first, so that nobody could open it any more to erase from its arrays."""
    with assembly.open(folder) as memory:
        memory.append(memory.codec.encode("magenta zebra " * 6000).token_ids, source="zebra")
        memory.append_text("the end", source="end")
    for base in (bases[1], bases[0]):
        regist(folder, base=base, keep_old=True)
    if number == 3:  # one that was coming
        with assembly.open(folder) as writer:
            writer.append_text("one", source="one")
            with pytest.raises(MemoryLockedError):
                regist(folder, base=bases[1], keep_old=True)
    left = Generation(folder, number)
    shards = left.folder / "arrays" / "lod0" / "c"
    assert list(shards.iterdir())
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            left.remove()
    assert list(shards.iterdir())
    before = contents(folder)["sources"]
    with assembly.open(folder) as memory:
        hold = Hold(left.folder)
        with pytest.raises(MemoryLockedError, match="was to be removed, and is read by another process"):
            memory.erase("zebra")
        hold.release()
        assert memory.sources() == before
        memory.erase("zebra")
        assert memory.check().ok
    assert not shards.exists()
    assert left not in all_generations(folder)
    assert [Generation(folder, kept).has_catalog for kept in (0, 1, 2)] == [kept != number for kept in (0, 1, 2)]


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
