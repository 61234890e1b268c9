"""Which of the generations in a memory's folder counts, and when one may be removed."""

from __future__ import annotations

import pytest

from megacontext.storage.generations import Generation, Hold, all_generations, current_generation


@pytest.fixture
def first(tmp_path):
    return filled(Generation(tmp_path, 0))


def filled(generation):
    (generation.folder / "catalog.sqlite").write_text("rows")
    (generation.folder / "arrays" / "lod0").mkdir(parents=True)
    (generation.folder / "arrays" / "lod0" / "0").write_text("tokens")
    (generation.memory_folder / "raw").mkdir(exist_ok=True)
    return generation


def test_the_highest_that_is_whole_counts(tmp_path, first):
    assert current_generation(tmp_path / "nowhere") == Generation(tmp_path / "nowhere", 0)
    assert current_generation(tmp_path) == first
    coming = first.next
    coming.begin(keeps_old=False)
    filled(coming)
    assert (current_generation(tmp_path), all_generations(tmp_path)) == (first, [first, coming])
    coming.finish(owes_removal=True)
    assert current_generation(tmp_path) == coming
    assert (coming.owes_removal, coming.is_unfinished) == (True, False)
    assert Generation.at(coming.folder) == coming
    assert Generation.at(tmp_path) is None
    assert first.remove()
    assert first.remove()
    coming.settle()
    assert not coming.owes_removal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generations", "raw"]
    assert coming.num_bytes() == len("rowstokens")


def test_a_folder_without_a_catalog_does_not_count(tmp_path, first):
    (tmp_path / "generations" / "7").mkdir(parents=True)
    (tmp_path / "generations" / "notes").mkdir()
    assert current_generation(tmp_path) == first


def test_what_is_held_is_not_removed(tmp_path, first):
    holds = [Hold(first.folder), Hold(first.folder)]
    assert all(hold.is_held for hold in holds)
    for hold in holds:
        assert not first.remove()
        hold.release()
        hold.release()
    assert first.remove()
    assert not (tmp_path / "arrays").exists()


def test_a_removal_that_died_is_finished(tmp_path, first, monkeypatch):
    """At whatever step: it never counts again."""
    from pathlib import Path

    coming = first.next
    coming.begin(keeps_old=False)
    filled(coming)
    coming.finish(owes_removal=False)

    def die(path, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            coming.remove()
    assert coming.is_unfinished
    assert current_generation(tmp_path) == first
    assert coming.remove()
    assert not (tmp_path / "generations").exists()
