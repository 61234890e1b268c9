"""Files that come together, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.training.new_files import in_one_move


def fill(place: Path, said: str) -> None:
    (place / "tokenizer").mkdir()
    for name in ("tokenizer/tokenizer.json", "report.json", "books.npz"):
        (place / name).write_text(said)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_comes_whole(tmp_path: Path) -> None:
    with in_one_move(tmp_path / "run" / "data") as place:
        fill(place, "new")
        assert not (tmp_path / "run" / "data").exists()
    assert set(files(tmp_path)) == {"run/data/tokenizer/tokenizer.json", "run/data/report.json", "run/data/books.npz"}


def test_what_a_folder_has_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "books.npz").write_text("old")
    with in_one_move(folder) as place:
        fill(place, "new")
    assert files(tmp_path) == {
        "data/tokenizer/tokenizer.json": "new",
        "data/report.json": "new",
        "data/books.npz": "old",
    }


def fail(folder: Path, error: BaseException) -> None:
    with in_one_move(folder) as place:
        fill(place, "new")
        raise error


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a" / "b" / "data", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(OSError, match="full"):
        fail(tmp_path / "run" / "data", OSError("full"))
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_what_a_killed_process_left_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "code.npz").write_text("half")
    with in_one_move(tmp_path / "data") as place:
        fill(place, "new")
    assert "data/code.npz" not in files(tmp_path)
    assert not (tmp_path / "data.partial").exists()
