"""What was found stays to the byte, whatever a model said and wherever a run was cut off."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from megacontext.errors import CorruptionError, MemoryExistsError
from megacontext.evaluation.runs.records import Record, RunFolder
from megacontext.evaluation.runs.trials import ItemResult

RECIPES = Path(__file__).parents[3] / "recipes" / "core"
SETTINGS = {"block_tokens": 32, "gist_width": 1}
ODD = "one\u2028two\u2029three\u0085four\x0bfive\nsix\r"  # str.splitlines() ends a line at each


def record(key: str, said: str = "yes") -> Record:
    item = ItemResult(facets={"at": "0.5"}, measures={"score": (1.0, 2)}, said=said, evidence=((3, 7),))
    return Record(task="needle", key=key, facets={"length": "1k"}, budget=64, method="recency", items=(item,))


def opened(folder: Path) -> RunFolder:
    return RunFolder(folder, SETTINGS, {}, resume=True)


@pytest.fixture
def told() -> list[Record]:
    return [record("a"), record("b", ODD), record("c", "caf\u00e9"), record("d", "\u20ac")]


@pytest.fixture
def run(tmp_path: Path, told: list[Record]) -> Path:
    folder = RunFolder(tmp_path / "run", SETTINGS, {}, resume=False)
    for one in told:
        folder.add(one)
    folder.close()
    return tmp_path / "run"


def read(run: Path) -> list[Record]:
    folder = opened(run)
    folder.close()
    return folder.records


def test_a_run_is_not_begun_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(MemoryExistsError, match="file is a file; choose another folder with --out"):
            RunFolder(place, SETTINGS, {}, resume=False)


def test_an_answer_may_hold_any_character(run: Path, told: list[Record]) -> None:
    before = (run / "trials.jsonl").read_bytes()
    assert read(run) == told
    assert (run / "trials.jsonl").read_bytes() == before


def test_opening_a_run_writes_nothing(run: Path, told: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run / "trials.jsonl"
    trials.write_bytes(trials.read_bytes()[:-1])
    inode, changed, content = trials.stat().st_ino, trials.stat().st_mtime_ns, trials.read_bytes()
    assert read(run) == told[:-1]
    monkeypatch.setattr(sys, "argv", ["shapes.py", "--runs", str(run)])
    with pytest.raises(SystemExit, match="holds no trials of task levels"):
        runpy.run_path(str(RECIPES / "shapes.py"), run_name="__main__")
    assert (trials.stat().st_ino, trials.stat().st_mtime_ns, trials.read_bytes()) == (inode, changed, content)
    assert sorted(path.name for path in run.iterdir()) == ["run.json", "trials.jsonl"]


def test_a_run_goes_on_wherever_it_was_cut_off(run: Path, told: list[Record]) -> None:
    trials = run / "trials.jsonl"
    whole = trials.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    euro = whole.index("\u20ac".encode())
    assert start < euro + 1 < len(whole) - 1
    for stop in (start, start + 1, euro, euro + 1, euro + 2, len(whole) - 1):
        trials.write_bytes(whole[:stop])
        folder = opened(run)
        assert folder.records == told[:-1], f"cut at {stop}"
        assert not folder.has(told[-1].place)
        folder.add(told[-1])
        folder.close()
        assert trials.read_bytes() == whole
        assert read(run) == told


def test_a_last_line_that_says_nothing_is_run_again(run: Path, told: list[Record]) -> None:
    trials = run / "trials.jsonl"
    whole = trials.read_bytes()
    for last in (b"\x00" * 40 + b"\n", b"\xff\n", b"{}\n", b"null\n", b"\n"):
        trials.write_bytes(whole + last)
        assert read(run) == told
        folder = opened(run)
        folder.add(record("e"))
        folder.close()
        assert [one.key for one in read(run)] == ["a", "b", "c", "d", "e"]
        assert trials.read_bytes().startswith(whole + b'{"task"')


@pytest.mark.parametrize("line", [b"", b"{", b"\xe2\x82", b'{"task": "needle"}', b"[]", b"\x00"])
def test_a_broken_line_amid_others_is_told_and_nothing_is_lost(run: Path, line: bytes) -> None:
    trials = run / "trials.jsonl"
    lines = trials.read_bytes().split(b"\n")
    for tail in (lines[2:], [b'{"task": "cut o']):
        trials.write_bytes(b"\n".join([lines[0], line, *tail]))
        before = trials.read_bytes()
        for _ in range(2):  # whoever opens it lets go of it
            with pytest.raises(CorruptionError, match=r"trials\.jsonl, line 2 is no record \(.*; take it out") as error:
                opened(run)
            assert "\n" not in str(error.value)
        assert trials.read_bytes() == before
        assert sorted(path.name for path in run.iterdir()) == ["run.json", "trials.jsonl"]


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ('["a", 1]', "the sum of score is 'a'; choose a finite number of at least 0 and of at most 1"),
        ("[5.0, 2]", "the sum of score is 5.0; choose a finite number of at least 0 and of at most 2"),
        ("[1.0, 0]", "the sum of score is 1.0; choose a finite number of at least 0 and of at most 0"),
        ("[NaN, 1]", "the sum of score is nan"),
        ("[1.0, 1.5]", "the count of score is 1.5; choose a whole number"),
        ("[1.0]", "missing 1 required positional argument"),
    ],
)
def test_what_no_run_can_have_found_is_told_with_its_line(run: Path, measure: str, said: str) -> None:
    trials = run / "trials.jsonl"
    first, rest = trials.read_text(encoding="utf-8").split("\n", 1)
    trials.write_text(first.replace("[1.0, 2]", measure) + "\n" + rest, encoding="utf-8")
    with pytest.raises(CorruptionError, match=rf"trials\.jsonl, line 1 is no record .*{re.escape(said)}"):
        opened(run)
    trials.write_text(first.replace('"seconds": 0.0', '"seconds": -1') + "\n" + rest, encoding="utf-8")
    with pytest.raises(CorruptionError, match=r"line 1 is no record .*seconds is -1"):
        opened(run)


def test_what_was_cut_off_goes_in_one_move(run: Path, told: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run / "trials.jsonl"
    cut = trials.read_bytes()[:-3]
    trials.write_bytes(cut)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:5])
        raise OSError(28, "No space left on device")

    folder = opened(run)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            folder.add(told[-1])
    assert trials.read_bytes() == cut
    folder.add(told[-1])
    folder.close()
    assert read(run) == told
    assert [json.loads(line)["key"] for line in trials.read_bytes().splitlines()] == ["a", "b", "c", "d"]
