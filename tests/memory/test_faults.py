"""Whatever call to whatever part fails: the memory is as it was, and works again when the fault is gone."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import numpy as np
import pytest

from megacontext.errors import StorageFullError


class Faults:
    """Counts calls to all parts; the one with the number ``at`` fails, and so do those behind it."""

    def __init__(self):
        self.at = None
        self.count = 0

    def arm(self, at):
        self.at, self.count = at, 0

    def call(self, name):
        self.count += 1
        if self.at is not None and self.count >= self.at:
            raise StorageFullError(f"injected at {name}")


class Failing:
    """A part whose methods may fail."""

    def __init__(self, part, faults):
        self._part, self._faults = part, faults

    def __getattr__(self, name):
        value = getattr(self._part, name)
        if not callable(value):
            return value

        def method(*args, **kwargs):
            self._faults.call(name)
            return value(*args, **kwargs)

        return method


class FailingCatalog(Failing):
    @contextmanager
    def write(self):
        self._faults.call("begin")
        with self._part.write() as writer:
            yield Failing(writer, self._faults)
            self._faults.call("commit")


@pytest.fixture(params=["doubles", "real"])
def failing(request, kit, tmp_path):
    """A memory over failing parts, with something in it already, and the faults to arm."""
    faults = Faults()
    if request.param == "doubles":
        parts = (kit.MemoryCatalog(kit.make_info(kit.MeanGister())), kit.MemoryArrays(), kit.MemoryBlobs())
    else:
        kit.open_folder(tmp_path / "m").close()
        parts = (
            kit.SqliteCatalog.open(tmp_path / "m"),
            kit.TensorStoreArrays(tmp_path / "m"),
            kit.FileBlobs(tmp_path / "m"),
        )
    catalog, arrays, blobs = parts
    memory = kit.make_memory(
        catalog=FailingCatalog(catalog, faults), arrays=Failing(arrays, faults), blobs=Failing(blobs, faults)
    )
    memory.append(np.arange(300) % 256)
    memory.ingest(text="the needle is here. " * 20, source="first")
    yield memory, faults
    faults.arm(None)
    memory.close()


def operations(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"file {number} has hay. " * 10)
    return {
        "append": lambda memory: memory.append(np.arange(40)),
        "append that seals": lambda memory: memory.append(np.arange(1200) % 256),
        "turn": lambda memory: memory.append_text("hello the needle", source="chat", role="user"),
        "text that seals": lambda memory: memory.ingest(text="hay and hay. " * 300, source="second"),
        "folder": lambda memory: memory.ingest(folder, labels={"a": "b"}),
    }


@pytest.mark.parametrize("name", ["append", "append that seals", "turn", "text that seals", "folder"])
def test_a_fault_at_any_call_leaves_no_trace(kit, failing, tmp_path, name, caplog):
    caplog.set_level(logging.CRITICAL)
    memory, faults = failing
    operation = operations(tmp_path)[name]
    failed_at = []
    for number in range(1, 2000):
        before = kit.contents(memory)
        faults.arm(number)
        try:
            operation(memory)
        except StorageFullError:
            faults.arm(None)
            failed_at.append(number)
            assert kit.contents(memory) == before
            memory.refresh()
            assert kit.contents(memory) == before
            continue
        faults.arm(None)
        break
    assert len(failed_at) > 3
    after = kit.contents(memory)
    assert len(after["tokens"]) > len(before["tokens"])
    memory.refresh()
    assert kit.contents(memory) == after
    assert memory.check(recompute_gists=True).ok
    memory.append([1, 2, 3])
    assert memory.check().ok


def test_gists_that_cannot_be_stored_are_reported_and_caught_up(kit, failing, tmp_path, caplog):
    """The sources are safe, so the ingest succeeds; the report says what is left to do."""
    memory, faults = failing
    calls = []
    faults.call = calls.append
    memory.ingest(text="hay " * 500, source="one")
    assert "seal_gists" in calls
    del calls[:]

    def refuse_gists(call):
        if call in ("put_gists", "seal_gists"):
            raise StorageFullError(f"injected at {call}")

    faults.call = refuse_gists
    report = memory.ingest(text="hey " * 500, source="two")
    assert report.num_tokens == 2000
    assert "injected" in report.deferred
    assert "injected" in caplog.text
    faults.call = calls.append
    assert memory.check(recompute_gists=True).ok
    assert memory.ingest(text="last", source="three").deferred == ""
    num_nodes = memory.tree.num_nodes(1, memory.num_tokens)
    del calls[:]
    memory.gists(1, 0, num_nodes)
    assert "state" not in calls  # every gist is stored: none had to be looked for elsewhere


def test_an_append_survives_a_gister_that_fails(kit, caplog):
    def broken():
        raise kit.BaseMismatchError("no model; get one")

    memory = kit.make_memory(gister=broken)
    memory.append(np.arange(2000) % 256)
    memory.append([1, 2, 3])
    assert memory.num_tokens == 2003
    assert caplog.text.count("no model") == 1  # not at every append


def test_of_many_sources_each_is_whole_or_absent(kit, failing, tmp_path, caplog):
    """More sources than one transaction holds: after a fault anywhere, a second run adds just the missing ones."""
    caplog.set_level(logging.CRITICAL)
    memory, faults = failing
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"file {number} has hay. " * 40)
    seen = set()
    for number in range(1, 2000, 3):
        faults.arm(number)
        try:
            memory.ingest(folder)
        except StorageFullError:
            faults.arm(None)
            seen.add(len(memory.sources()) - 2)
            assert all(
                quote.text == f"file {quote.uri[-5]} has hay. " * 40
                for quote in memory.provenance(700, memory.num_tokens)
            )
            continue
        faults.arm(None)
        break
    assert {0, 2} <= seen <= {0, 2, 4, 6}
    assert memory.ingest(folder).num_unchanged == 6
    assert len(memory.sources()) == 8
    assert memory.check(recompute_gists=True).ok
