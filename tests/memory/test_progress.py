"""Whoever is told how far an ingest is: what it may do meanwhile, and what it must be."""

from __future__ import annotations

import functools

import pytest

from megacontext.documents import loading
from megacontext.errors import EmptySourceError, InvalidValueError, MemoryLockedError
from megacontext.memory import drafting


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small files and one that comes in pieces."""
    monkeypatch.setattr(loading, "STREAM_BYTES", 10_000)
    monkeypatch.setattr(loading.OpenFile.pieces, "__defaults__", (1000,))
    monkeypatch.setattr(drafting, "BATCH_PIECES", 2)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("first words")
    (folder / "b.txt").write_text("many words. " * 3000)
    (folder / "c.txt").write_text("last words")
    return folder


CHANGES = {
    "append": lambda memory, folder: memory.append([1, 2]),
    "append_text": lambda memory, folder: memory.append_text("a turn"),
    "ingest": lambda memory, folder: memory.ingest(folder / "c.txt"),
    "ingest text": lambda memory, folder: memory.ingest(text="a text"),
    "erase": lambda memory, folder: memory.erase("before"),
    "store_gists": lambda memory, folder: memory.store_gists(),
    "repair": lambda memory, folder: memory.check(repair=True),
    "close": lambda memory, folder: memory.close(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_amid_an_ingest_is_refused_and_harms_nothing(kit, tmp_path, folder, change):
    """At every moment that is told; whoever catches that has the ingest go on."""
    refused = []

    def meddle(progress):
        with pytest.raises(MemoryLockedError, match="in the middle of the ingest whose progress this is; change"):
            change(memory, folder)
        refused.append(memory.tokens(0, 3).tolist())  # reading is fine
        assert memory.check().ok

    with kit.open_folder(tmp_path / "quiet") as quiet:
        quiet.append([1, 2, 3], source="before")
        quiet.ingest(folder)
        wanted = kit.contents(quiet)
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append([1, 2, 3], source="before")
        assert memory.ingest(folder, progress=meddle).num_sources == 3
        assert len(refused) > 4
        assert refused == [[1, 2, 3]] * len(refused)
        assert kit.contents(memory) == wanted
        assert memory.check(recompute_gists=True).ok
        change(memory, folder)


@pytest.mark.parametrize("stop_at", range(0, 7, 2))
@pytest.mark.parametrize("error", [ValueError, EmptySourceError, MemoryLockedError])
def test_what_it_raises_ends_the_ingest(kit, tmp_path, folder, stop_at, error):
    """Also an error of ours, which the ingest could take for one of a source, or of gists; what was whole stays."""
    num_told = 0

    def stop(progress):
        nonlocal num_told
        num_told += 1
        if num_told > stop_at:
            raise error("enough")

    with kit.open_folder(tmp_path / "m") as memory:
        with pytest.raises(error, match="enough"):
            memory.ingest(folder, progress=stop)
        assert memory.check(recompute_gists=True).ok
        num_sources = len(memory.sources())
        assert memory.ingest(folder).num_sources == 3 - num_sources
        assert memory.check(recompute_gists=True).ok
        assert sum(source.token_stop - source.token_start for source in memory.sources()) == memory.num_tokens


def test_a_failure_told_at_the_very_end(kit, folder):
    """While gists are kept, which may fail without harm: this is another failure."""
    told = []
    kit.make_memory().ingest(folder, progress=told.append)
    memory = kit.make_memory()

    def stop(progress):
        if progress.num_gist_tokens == told[-1].num_tokens:
            memory.append([1])

    with pytest.raises(MemoryLockedError, match="in the middle"):
        memory.ingest(folder, progress=stop)
    assert len(memory.sources()) == 3
    memory.store_gists()
    assert memory.append([1]) == told[-1].num_tokens


class _Watch:
    def __call__(self, progress, *, more=None):
        return progress, more

    def two(self, progress, other):
        return progress, other


@pytest.mark.parametrize(
    "progress",
    [lambda: None, lambda one, two: None, lambda *, progress: None, _Watch().two, _Watch, "print", 5, True],
)
def test_what_cannot_be_told_is_refused_before_anything_is_read(kit, tmp_path, progress):
    memory = kit.make_memory()
    for ingest in (
        functools.partial(memory.ingest, tmp_path / "not there"),
        functools.partial(memory.ingest, text="x"),
    ):
        with pytest.raises(
            InvalidValueError, match=r"^progress is .*; give a function of one IngestProgress, or None$"
        ):
            ingest(progress=progress)
    assert memory.num_tokens == 0


@pytest.mark.parametrize(
    "progress",
    [
        lambda progress: None,
        lambda progress, more=1: None,
        lambda *all_of_it: None,
        _Watch(),
        [].append,
        print,
        functools.partial(_Watch().two, other=1),
    ],
)
def test_whatever_takes_one_argument_is_told(kit, progress):
    assert kit.make_memory().ingest(text="words", progress=progress).num_sources == 1
