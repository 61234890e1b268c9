"""Files of records are read line by line, whatever their text holds."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from megacontext.errors import CorruptionError, InvalidValueError, UnreadableSourceError
from megacontext.evaluation.data_folder import NOUN_LIST, NOVELS, PAGES, DataFolder

ODD = "one\u2028two\u2029three\u0085four"  # str.splitlines() ends a line at each


def folder_of(path: Path, text: str, name: str = NOVELS) -> DataFolder:
    (path / name).parent.mkdir()
    (path / name).write_bytes(lzma.compress(text.encode()))
    return DataFolder(path)


def test_a_text_may_hold_any_character(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("plain", ODD)]
    data = folder_of(tmp_path, "\r\n".join([*lines, ""]))
    assert data.books == ["plain", ODD]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "b', r"books_test\.jsonl\.xz, line 2 is no JSON \(.*\); correct it, or leave the line out"),
        ("[1, 2]", r"books_test\.jsonl\.xz, line 2 is \[1, 2\]; write an object"),
        ('{"title": "b"}', r"books_test\.jsonl\.xz, line 2: the record has no 'text'; give it one"),
        ('{"text": 5}', r"books_test\.jsonl\.xz, line 2: 'text' is 5, of type int; give a str"),
    ],
)
def test_a_line_that_is_no_record_is_told(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said) as caught:
        _ = folder_of(tmp_path, '{"text": "a"}\n' + line).books
    assert "\n" not in str(caught.value)


def test_a_page_without_a_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"docs\.jsonl\.xz, line 1: the record has no 'id'"):
        _ = folder_of(tmp_path, '{"text": "a"}', PAGES).knowledge


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (cut, CorruptionError, r"books_test\.jsonl\.xz is cut off or damaged"),
        (lambda path: path.write_bytes(b"no xz"), CorruptionError, r"books_test\.jsonl\.xz is no whole xz file"),
        (
            lambda path: path.write_bytes(lzma.compress(b"")),
            UnreadableSourceError,
            r"books_test\.jsonl\.xz is empty; it should hold novels",
        ),
    ],
)
def test_a_file_that_is_damaged_is_told(
    tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], said: str
) -> None:
    data = folder_of(tmp_path, json.dumps({"text": "a" * 1000}) + "\n")
    damage(tmp_path / NOVELS)
    with pytest.raises(error, match=said):
        _ = data.books


def test_words_that_are_not_utf_8_are_told(tmp_path: Path) -> None:
    (tmp_path / NOUN_LIST).parent.mkdir()
    (tmp_path / NOUN_LIST).write_bytes("apple\nb\u00e4r\n".encode("latin-1"))
    with pytest.raises(InvalidValueError, match=r"nounlist\.txt is not UTF-8 from byte 7 on \(.*\); write it as UTF-8"):
        DataFolder(tmp_path).words(NOUN_LIST)
