"""Files of records: what is broken is said with file and line."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from megacontext.documents.records import Record, read_records, text_field
from megacontext.errors import CorruptionError, InvalidValueError, MegaContextError

GOOD = [json.dumps({"id": f"page-{index}", "text": "how to"}) for index in range(3)]


def names(path: Path) -> list[str]:
    def make(record: Record) -> str:
        text_field(record, "text")
        return text_field(record, "id")

    return list(read_records(path, make))


def write(folder: Path, *lines: str) -> Path:
    path = folder / "pages.jsonl.xz"
    path.write_bytes(lzma.compress("\n".join([*GOOD, *lines]).encode("utf-8", "surrogatepass")))
    return path


def test_empty_lines_are_no_records(tmp_path: Path) -> None:
    assert names(write(tmp_path, "", "   ", "")) == ["page-0", "page-1", "page-2"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "x", "text"', r"line 4 is no JSON \(.*\); correct it, or leave the line out"),
        ("[" * 100_000, r"line 4 is no JSON"),
        ('["id", "text"]', r"line 4 is \['id', 'text'\]; write an object, \{\.\.\.\}"),
        ('{"id": "x"}', "line 4: the record has no 'text'; give it one, or leave the line out"),
        ('{"text": "x"}', "line 4: the record has no 'id'; give it one"),
        ('{"id": 7, "text": "x"}', "line 4: 'id' is 7, of type int; give a str"),
        ('{"id": "x", "text": null}', "line 4: 'text' is None, of type NoneType; give a str"),
        ('{"id": "x", "text": "\\ud800"}', "line 4: 'text' has a lone surrogate at character 0"),
    ],
)
def test_a_broken_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, line)
    with pytest.raises(InvalidValueError, match=said) as caught:
        names(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whatever_a_reader_trips_over_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"line 1 is no record of this kind \(KeyError: 'story'\); correct it"):
        list(read_records(write(tmp_path), lambda record: record["story"]))


def test_a_file_that_is_no_whole_xz_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, *(json.dumps({"id": str(index), "text": str(index**9)}) for index in range(20_000)))
    content = path.read_bytes()
    broken: dict[bytes, str] = {
        b"": r"is no whole xz file \(.*\); take another copy",
        b'{"id": "x", "text": "plain"}\n': r"is no whole xz file \(.*\); take another copy",
        content[:20]: "is no whole xz file",
        content[: len(content) // 2]: r"is cut off or damaged after line \d+",
        content[: len(content) // 2] + b"?" * 8 + content[len(content) // 2 + 8 :]: "is cut off or damaged after line",
    }
    for damaged, said in broken.items():
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=said) as caught:
            names(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_letters_than_utf_8_are_said(tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl.xz"
    path.write_bytes(lzma.compress('{"id": "café", "text": "x"}'.encode("latin-1")))
    with pytest.raises(InvalidValueError, match=r"pages\.jsonl\.xz is not UTF-8 after line 0 .*; write it as UTF-8"):
        names(path)


def test_a_missing_file_is_named_with_its_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.xz", tmp_path):
        with pytest.raises(MegaContextError, match=rf"{path} does not exist; give the folder that holds"):
            names(path)
