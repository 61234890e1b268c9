"""Locks as one process sees them: taking turns, full disks, folders in their place, names that stay."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import filelock
import pytest

from megacontext.errors import MemoryLockedError, StorageError, StorageFullError
from megacontext.memory.lock import RewriteLock, WriterLock


def test_two_memories_of_one_process_take_turns(kit, tmp_path):
    first, second = kit.open_folder(tmp_path / "m"), kit.open_folder(tmp_path / "m")
    first.append([1])
    with pytest.raises(MemoryLockedError, match=str(os.getpid())):
        second.append([2])
    first.close()
    assert second.append([2]) == 1  # it sees what the first has done
    assert second.tokens(0, 2).tolist() == [1, 2]
    second.close()


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_lock_that_a_full_disk_has_no_room_for(tmp_path, monkeypatch, name):
    def full(*_, **__):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(filelock.FileLock, "acquire", full)
    lock = WriterLock(tmp_path / "writer.lock")
    with pytest.raises(StorageFullError, match="free some space"):
        lock.acquire()
    monkeypatch.undo()
    lock.acquire()
    lock.release()


def test_a_left_name_does_not_fail_what_was_done_under_the_lock(kit, tmp_path, monkeypatch):
    """The id of the writer stays where its folder may not be changed."""
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append([1, 2, 3])

        def refuse(self, missing_ok=False):
            raise PermissionError(13, "Permission denied", str(self))

        with monkeypatch.context() as protected:
            protected.setattr(Path, "unlink", refuse)
            memory.append([4])
    with kit.open_folder(tmp_path / "m") as memory:
        assert memory.tokens(0, 4).tolist() == [1, 2, 3, 4]
        memory.append([5])


@pytest.mark.parametrize("name", ["writer.lock", "writer.pid"])
def test_a_folder_in_the_place_of_a_lock_is_named(kit, tmp_path, name):
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append([1, 2, 3])
    (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "m" / name).mkdir()
    with kit.open_folder(tmp_path / "m") as memory, pytest.raises(StorageError, match=f"{name} is a folder.*remove"):
        memory.append([4])


def test_a_copy_from_a_folder_that_may_not_be_written(tmp_path):
    """Without a lock file and without the right to make one: as before, unless somebody begins to rewrite."""
    path = tmp_path / "m" / "rewrite.lock"
    with RewriteLock(path).shared():  # its folder is not there, so that nothing can be made in it
        pass

    def look_while_it_begins():
        with RewriteLock(path).shared():
            path.parent.mkdir()
            with RewriteLock(path).alone():
                pass

    with pytest.raises(MemoryLockedError, match="erased"):
        look_while_it_begins()
    path.chmod(0o444)
    with RewriteLock(path).alone(), pytest.raises(MemoryLockedError), RewriteLock(path).shared():
        pass
    with RewriteLock(path).shared(), RewriteLock(path).shared():
        pass


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_does_not_keep_the_lock_from_whoever_makes_room(kit, tmp_path, monkeypatch, name):
    with kit.open_folder(tmp_path / "m") as memory:
        memory.ingest(text="much to be erased", source="old")

    def no_room(path, text):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(Path, "write_text", no_room)
    with kit.open_folder(tmp_path / "m") as memory, kit.open_folder(tmp_path / "m") as other:
        memory.erase("old")
        with pytest.raises(MemoryLockedError, match=r"written by process \(unknown\)"):
            other.append([1])
        assert memory.check(repair=True).ok
